"""Files and options become one config by one rule, and what a run writes gives the same values when it is read."""

from pathlib import Path

import pytest
import torch
import yaml

from src.engine.config.files import as_yaml, merge, read_env_file
from src.module import LitModule
from tests.conftest import SMALL
from tests.xor import XorMLP

FIT = ("fit", "--config", SMALL)
SHORT = ("--trainer.max_epochs=1", "--data.passes=2")


@pytest.fixture
def config(cli, tmp_path):
    """The config that files and options amount to."""

    def build(text, *more):
        (tmp_path / "more.yaml").write_text(text or "{experiment: any}")
        done = cli(*FIT, "--config", "more.yaml", *more, "--print_config")
        assert done.code == 0, done.err
        return yaml.safe_load(done.out)

    return build


def arguments(config):
    return config["model"]["init_args"]


TEXTS = ["1e-3", "12e4567", "on", "2024-01-01", "1_000", "0o17", "@home", "*.png", "&a", "[1].png", "{a", "a: b", "~x"]


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize(
    "more",
    [
        pytest.param((), id="plain"),
        pytest.param(("--data.batch_size=${data.init_args.passes}",), id="with references", marks=pytest.mark.slow),
    ],
)
def test_any_text_is_read_as_it_was_written(cli, tmp_path, text, more):
    done = cli(*FIT, *SHORT, *more, f"--experiment={text}")
    assert done.code == 0, done.err
    run = tmp_path / "runs" / text / "version_0"
    assert yaml.safe_load((run / "config.yaml").read_text())["experiment"] == text
    for command in (("test", "--ckpt_path", run), ("fit", "--config", run / "config.yaml")):
        done = cli(*command)
        assert done.code == 0, done.err
    assert {path.name for path in run.parent.iterdir()} == {"version_0", "version_1", "version_2"}


@pytest.mark.parametrize("text", ["1e-3", "7e10", ".5", "1.", "-.inf", "2024-01-01", "0o17", "yes", "null", "#", "'"])
def test_what_is_written_comes_back_the_same(text):
    value = {"text": text, "list": [text, 1e-05, float("inf"), None, True]}
    assert yaml.safe_load(as_yaml(value)) == value


class Transform:
    """An object without a word for it in YAML."""


class Odd(XorMLP):
    """Has defaults that YAML cannot hold."""

    def __init__(
        self,
        device: torch.device = torch.device("cpu"),  # noqa: B008
        transform=Transform(),  # noqa: B008
        scale=lambda x: x,
        number=2 + 1j,
        weights: Path | None = Path("x"),
    ) -> None:
        super().__init__()
        assert (device, number) == (torch.device("cpu"), 2 + 1j)
        assert isinstance(transform, Transform)
        assert scale(3) == 3
        self.weights = weights


def test_defaults_that_yaml_cannot_hold_are_the_defaults_again(cli, tmp_path):
    for command in ((*FIT, *SHORT, f"--model.net={__name__}.Odd"), ("test", "--ckpt_path=runs/xor/version_0")):
        done = cli(*command)
        assert done.code == 0, done.err
    assert "serialize" not in (tmp_path / "runs/xor/version_0/config.yaml").read_text()
    LitModule.load_from_checkpoint(tmp_path / "runs/xor/version_0")


def test_a_timer_is_carried(cli, tmp_path):
    timer = "{class_path: lightning.pytorch.callbacks.Timer, init_args: {duration: '00:01:00:00'}}"
    (tmp_path / "timer.yaml").write_text(f"trainer: {{callbacks+: [{timer}]}}\n")
    for command in ((*FIT, "--config=timer.yaml", *SHORT), ("test", "--ckpt_path=runs/xor/version_0")):
        done = cli(*command)
        assert done.code == 0, done.err


def test_a_reference_survives_a_run(cli, tmp_path):
    cycle = (
        "class_path: OneCycleLR, init_args: {max_lr: '${model.init_args.optimizer.init_args.lr}', total_steps: null}"
    )
    (tmp_path / "cycle.yaml").write_text(f"model: {{scheduler: {{{cycle}}}, scheduler_interval: step}}\n")
    assert cli(*FIT, "--config=cycle.yaml", *SHORT).code == 0
    done = cli("fit", "--config=runs/xor/version_0/config.yaml", "--model.optimizer.lr=0.001")
    assert done.code == 0, done.err
    last = torch.load(tmp_path / "runs/xor/version_1/checkpoints/last.ckpt", weights_only=True)
    assert last["optimizer_states"][0]["param_groups"][0]["max_lr"] == 0.001
    assert LitModule.load_from_checkpoint(tmp_path / "runs/xor/version_1").scheduler.keywords["max_lr"] == 0.001
    done = cli("fit", "--ckpt_path=runs/xor/version_1")
    assert done.code == 0, done.err


def test_an_escaped_reference_is_a_text(cli, tmp_path):
    assert cli(*FIT, *SHORT, r"--experiment=\${name}").code == 0
    run = tmp_path / "runs/${name}/version_0"
    for command in (("test", "--ckpt_path", run), ("fit", "--config", run / "config.yaml")):
        done = cli(*command)
        assert done.code == 0, done.err


CHANGES = ["--model.optimizer=torch.optim.Adam", "--model.optimizer=Adam", "--model.optimizer.class_path=Adam"]


@pytest.mark.parametrize("change", CHANGES)
def test_another_class_begins_with_its_own_defaults_and_a_line_says_what_is_left_out(cli, tmp_path, change):
    done = cli(*FIT, *SHORT, change)
    assert done.code == 0, done.err
    assert "what torch.optim.SGD was given is left out (lr=0.5)" in done.err
    saved = yaml.safe_load((tmp_path / "runs/xor/version_0/config.yaml").read_text())
    assert arguments(saved)["optimizer"]["init_args"]["lr"] == 0.001


@pytest.mark.parametrize("text", ["{class_path: torch.optim.Adam}", "Adam", "{class_path: Adam, init_args: {}}"])
def test_another_class_in_a_file_begins_with_its_own_defaults_too(config, text):
    assert arguments(config(f"model: {{optimizer: {text}}}"))["optimizer"]["init_args"]["lr"] == 0.001


@pytest.mark.parametrize("text", ["{lr: 0.25}", "{init_args: {lr: 0.25}}", "{class_path: SGD, init_args: {lr: 0.25}}"])
def test_the_same_class_keeps_its_arguments(config, text):
    kept = config(f"model: {{optimizer: {text}}}", "--model.optimizer.momentum=0.5")
    init = arguments(kept)["optimizer"]["init_args"]
    assert (init["lr"], init["momentum"]) == (0.25, 0.5)
    assert arguments(config("", "--model.optimizer=SGD"))["optimizer"]["init_args"]["lr"] == 0.5


class Wider(XorMLP):
    """Builds on another net of one's own."""

    def __init__(self, hidden: int = 4, factor: int = 2) -> None:
        super().__init__(hidden * factor)


def test_a_class_that_builds_on_the_one_before_keeps_its_arguments(config):
    net = f"model: {{net: {{class_path: {__name__}.Wider}}}}"
    both = config(f"config: {SMALL}\nmodel: {{net: {{init_args: {{hidden: 9}}}}}}")
    assert arguments(both)["net"]["init_args"] == {"hidden": 9}
    assert arguments(config(net, "--model.net.hidden=9"))["net"]["init_args"] == {"hidden": 9, "factor": 2}


@pytest.mark.parametrize(
    ("base", "over", "result"),
    [
        ({"a": {"x": {"b": 1, "c": 2}}}, {"a": {"x": {"b": 3}}}, {"a": {"x": {"b": 3, "c": 2}}}),
        ({"a": {"x": {"b": 1, "c": 2}}}, {"a": {"x": {"b": None}}}, {"a": {"x": {"c": 2}}}),
        ({"a": {"b": 1}}, {"a": {"b": None}}, {"a": {"b": None}}),  # an option is null, only an entry is deleted
        ({"a": {"b": [1]}}, {"a": {"b": [2]}}, {"a": {"b": [2]}}),
        ({"a": {"b": [1]}}, {"a": {"b+": [2]}}, {"a": {"b": [1, 2]}}),
        ({"a": {"b": "one"}}, {"a": {"b+": "two"}}, {"a": {"b": ["one", "two"]}}),
        ({"a": {"b+": [1]}}, {"a": {"b+": [2]}}, {"a": {"b+": [1, 2]}}),
        ({"a": {"b+": [1]}}, {"a": {"b": [2]}}, {"a": {"b": [2]}}),
        (
            {"model": {"net": 1}},
            {"model": {"class_path": "A"}},
            {"model": {"init_args": {"net": 1}, "class_path": "A"}},
        ),
    ],
)
def test_the_rule(base, over, result):
    assert merge(base, over) == result


def test_a_file_changes_adds_and_deletes_entries_of_a_dict(config):
    two = "metrics: {acc: {class_path: BinaryAccuracy}, f1: {class_path: BinaryF1Score}}"
    metrics = arguments(config(f"model: {{{two}}}", "--model.metrics.acc.threshold=0.75"))["metrics"]
    assert {"acc", "f1"} == metrics.keys()
    assert metrics["acc"]["init_args"]["threshold"] == 0.75
    assert {"acc", "f1"} == arguments(config("model: {metrics: {f1: {class_path: BinaryF1Score}}}"))["metrics"].keys()
    assert {"f1"} == arguments(config(f"model: {{{two}}}", "--model.metrics.acc=null"))["metrics"].keys()
    assert arguments(config("model: {metrics: {acc: null}}"))["metrics"] == {}


@pytest.mark.parametrize(
    "text", ["trainer:\n", "checkpoint:\n", "model:\n  optimizer:\n", "data:\n  init_args:\n", "model:\n  metrics:\n"]
)
def test_a_section_without_content_is_no_section(config, text):
    assert config(f"{text}  # a: 1\nexperiment: any\n") == config("experiment: any\n")


def test_null_takes_a_class_away(config):
    one = "model:\n  scheduler: {class_path: StepLR, init_args: {step_size: 1}}\n"
    assert arguments(config(one))["scheduler"]["init_args"]["step_size"] == 1
    assert arguments(config(one, "--config={model: {scheduler: null}}"))["scheduler"] is None
    assert arguments(config(one, "--model.scheduler=null"))["scheduler"] is None


@pytest.mark.parametrize(
    ("name", "text", "hint"),
    [
        (
            "twice.yaml",
            "trainer:\n  max_epochs: 1\ndata:\n  a: 1\ntrainer:\n",
            "twice.yaml, line 5: 'trainer' stands here",
        ),
        (
            "deep.yaml",
            "model:\n  a: 1\n  b: 2\n  a: 3\n",
            "deep.yaml, line 4: 'a' stands here a second time, first in line 2",
        ),
        ("flow.yaml", "model: {a: 1,\n  a: 3}\n", "flow.yaml, line 2: 'a' stands here a second time"),
        ("round.yaml", "config: round.yaml\n", "round.yaml: the files that `config:` names lead back to it"),
        ("gone.yaml", "config: nope.yaml\n", "gone.yaml: config: nope.yaml: nope.yaml does not exist"),
        ("bell.yaml", "experiment: a\x07\n", "bell.yaml: this is no YAML: unacceptable character"),
    ],
)
def test_a_wrong_file_is_one_line_with_its_name(cli, tmp_path, name, text, hint):
    (tmp_path / name).write_text(text)
    done = cli(*FIT, "--config", name)
    assert done.code == 1
    assert hint in done.err
    assert len(done.err.splitlines()) == 1


def test_a_file_in_utf_16_is_told_and_a_byte_order_mark_does_no_harm(cli, tmp_path):
    (tmp_path / "wide.yaml").write_bytes("experiment: a\n".encode("utf-16"))
    assert "wide.yaml: this is no UTF-8 text" in cli(*FIT, "--config=wide.yaml").err
    (tmp_path / "mark.yaml").write_bytes("experiment: a\n".encode("utf-8-sig"))
    assert yaml.safe_load(cli(*FIT, "--config=mark.yaml", "--print_config").out)["experiment"] == "a"


def test_a_file_builds_on_others_relative_to_itself(cli, tmp_path):
    (tmp_path / "sub").mkdir()
    (tmp_path / "base.yaml").write_text("trainer: {max_epochs: 3, callbacks: [RichProgressBar]}\n")
    (tmp_path / "sub/mid.yaml").write_text("config: ../base.yaml\ndata: {init_args: {passes: 9}}\n")
    top = "model: {net: {init_args: {hidden: 5}}}\ntrainer: {callbacks+: [LearningRateMonitor]}\n"
    (tmp_path / "sub/top.yaml").write_text(f"config: [{SMALL}, mid.yaml]\n{top}")
    done = cli("fit", "--config=sub/top.yaml", "--print_config")
    assert done.code == 0, done.err
    built = yaml.safe_load(done.out)
    assert arguments(built)["net"]["init_args"]["hidden"] == 5
    assert (built["trainer"]["max_epochs"], built["data"]["init_args"]["passes"]) == (3, 9)
    names = [each["class_path"].rpartition(".")[2] for each in built["trainer"]["callbacks"]]
    assert names == ["RichProgressBar", "LearningRateMonitor"]


CHECK = "trainer.callbacks.check_on_train_epoch_end"


@pytest.mark.parametrize(
    "options",
    [
        [f"--model.net={__name__}.Odd", "--model.net.weights=null"],
        ["--model.scheduler=OneCycleLR", "--model.scheduler.max_lr=1", "--model.scheduler.total_steps=null"],
        ["--trainer.callbacks+=EarlyStopping", "--trainer.callbacks.monitor=val/loss", f"--{CHECK}=null"],
    ],
)
def test_null_is_null_at_any_depth(cli, options):
    done = cli(*FIT, *SHORT, *options)
    assert done.code == 0, done.err
    assert "None" not in Path("runs/xor/version_0/config.yaml").read_text()


@pytest.mark.parametrize(
    ("option", "hint"),
    [
        ("data.batch_size", "data.batch_size: expected int; got null"),
        ("model.net.hidden", "model.net.hidden: expected int; got null"),
        ("trainer.accelerator", "trainer.accelerator: expected str or Accelerator; got null"),
        ("predictions.max_printed", "predictions.max_printed: expected int; got null"),
    ],
)
@pytest.mark.parametrize("how", ["option", "empty key"])
def test_null_for_what_takes_none_is_one_line(cli, tmp_path, option, hint, how):
    keys = option.split(".")
    text = "".join(f"{'  ' * depth}{key}:\n" for depth, key in enumerate(keys))
    (tmp_path / "empty.yaml").write_text(text)
    done = cli(*FIT, *(["--config=empty.yaml"] if how == "empty key" else [f"--{option}=null"]))
    assert done.code != 0
    assert hint in done.err
    assert len(done.err.splitlines()) == 1


def test_a_dash_for_an_underscore_is_recognised(cli):
    assert "Did you mean trainer.max_epochs?" in cli(*FIT, "--trainer.max-epochs=3").err


def test_a_comment_behind_a_value_of_the_env_file_is_no_value(tmp_path, monkeypatch):
    import os

    text = "A_1=/data # here\nA_2='x # y' # z\nA_3=a#b\nA_4= # nothing\n"
    (tmp_path / ".env").write_text(text)
    for name in ("A_1", "A_2", "A_3", "A_4"):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    read_env_file(tmp_path / ".env")
    assert [os.environ[f"A_{number}"] for number in range(1, 5)] == ["/data", "x # y", "a#b", ""]
