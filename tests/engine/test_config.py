"""Files, options, a checkpoint and the environment become one config by one rule; what a run writes reads the same."""

import functools
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
import yaml
from torch import Tensor, nn

from src.engine.config.compose import merge
from src.engine.config.files import as_yaml, read_env_file
from src.engine.config.parser import to_numbers, to_tensor
from src.module import LitModule
from tests import stopping
from tests.conftest import PROJECT, SMALL
from tests.copies import python
from tests.xor import XorMLP

FIT = ("fit", "--config", SMALL)
SHORT = ("--trainer.max_epochs=1", "--data.passes=2")
RUN = "runs/xor/version_0"


@pytest.fixture
def config(cli, tmp_path):
    """The config that files and options amount to."""

    def build(text="{experiment: any}", *more):
        (tmp_path / "more.yaml").write_text(text)
        done = cli(*FIT, "--config", "more.yaml", *more, "--print_config")
        assert done.code == 0, done.err
        return yaml.safe_load(done.out)

    return build


def arguments(config):
    return config["model"]["init_args"]


def succeed(cli, *commands):
    for command in commands:
        done = cli(*command)
        assert done.code == 0, done.err


# The rule.


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
        (
            {"a": {"b": [{"class_path": "A"}]}},
            {"a": {"b": {"c": 1}}},
            {"a": {"b": [{"class_path": "A", "init_args": {"c": 1}}]}},
        ),
    ],
)
def test_the_rule(base, over, result):
    assert merge(base, over) == result


def test_of_several_files_the_later_one_wins_and_the_command_line_over_all(config, tmp_path):
    (tmp_path / "a.yaml").write_text("trainer: {max_epochs: 3, accelerator: cpu}\n")
    (tmp_path / "b.yaml").write_text("trainer: {max_epochs: 4}\ndata: {init_args: {passes: 9}}\n")
    both = config("experiment: any", "--config=a.yaml", "--data.passes=7", "--config=b.yaml")
    assert (both["trainer"]["max_epochs"], both["trainer"]["accelerator"]) == (4, "cpu")
    assert both["data"]["init_args"] == {"batch_size": 4, "passes": 7}


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


def test_local_yaml_is_read_by_itself_and_any_other_file_wins(config, cli, tmp_path):
    for text in ("", "# trainer:\n#   max_epochs: 1\n", "trainer: {max_epochs: 3, default_root_dir: elsewhere}\n"):
        (tmp_path / "local.yaml").write_text(text)
        both = config("experiment: xor")
    assert (both["trainer"]["max_epochs"], both["trainer"]["default_root_dir"]) == (8, "elsewhere")
    # It is no obstacle to what a checkpoint carries.
    succeed(cli, (*FIT, *SHORT), ("test", "--ckpt_path=elsewhere/xor/version_0"))


# Classes.


@pytest.mark.parametrize("how", ["--model.optimizer=torch.optim.Adam", "--model.optimizer.class_path=Adam", "Adam"])
def test_another_class_begins_with_its_own_defaults_and_a_line_says_what_is_left_out(cli, tmp_path, how):
    (tmp_path / "adam.yaml").write_text("model: {optimizer: Adam}\n")
    done = cli(*FIT, *SHORT, how if how.startswith("--") else "--config=adam.yaml")
    assert done.code == 0, done.err
    assert "what torch.optim.SGD was given is left out (lr=0.5)" in done.err
    saved = yaml.safe_load((tmp_path / RUN / "config.yaml").read_text())
    assert arguments(saved)["optimizer"]["init_args"]["lr"] == 0.001


@pytest.mark.parametrize("text", ["{lr: 0.25}", "{init_args: {lr: 0.25}}", "{class_path: SGD, init_args: {lr: 0.25}}"])
def test_the_same_class_keeps_its_arguments(config, text):
    for kept in (
        config(f"model: {{optimizer: {text}}}", "--model.optimizer.momentum=0.5"),
        config(
            "experiment: any", f"--model.optimizer={text}", "--model.optimizer=SGD", "--model.optimizer.momentum=.5"
        ),
    ):
        init = arguments(kept)["optimizer"]["init_args"]
        assert (init["lr"], init["momentum"]) == (0.25, 0.5)


class Wider(XorMLP):
    """Builds on another net of one's own."""

    def __init__(self, hidden: int = 4, factor: int = 2) -> None:
        super().__init__(hidden * factor)


@pytest.mark.parametrize("path", [f"{__name__}.Wider", "gone.Net"])
def test_a_class_that_builds_on_the_one_before_or_replaces_a_lost_one_keeps_its_arguments(config, tmp_path, path):
    first = {"class_path": path if path == "gone.Net" else "tests.xor.XorMLP", "init_args": {"hidden": 9}}
    (tmp_path / "first.yaml").write_text(yaml.safe_dump({"config": str(SMALL), "model": {"net": first}}))
    built = config("config: first.yaml", f"--model.net={__name__}.Wider")
    assert arguments(built)["net"]["init_args"] == {"hidden": 9, "factor": 2}


def test_the_arguments_of_a_checkpoints_lost_class_go_to_the_one_that_is_named(cli, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "lost_net.py").write_text(f"from {__name__} import Wider\n")
    succeed(cli, (*FIT, *SHORT, "--model.net=lost_net.Wider", "--model.net.hidden=3"))
    monkeypatch.delitem(__import__("sys").modules, "lost_net")
    (tmp_path / "lost_net.py").unlink()
    for cached in tmp_path.glob("__pycache__/lost_net*"):
        cached.unlink()
    done = cli("test", f"--ckpt_path={RUN}")
    assert done.code == 1
    assert done.err.startswith("error: model.net: there is no 'lost_net'")
    succeed(cli, ("test", f"--ckpt_path={RUN}", f"--model.net={__name__}.Wider"))
    with pytest.raises(ValueError, match="lost_net"):
        LitModule.load_from_checkpoint(RUN)
    net = {"class_path": f"{__name__}.Wider", "init_args": {"hidden": 3}}
    assert isinstance(LitModule.load_from_checkpoint(RUN, net=net).net, Wider)


def test_lightnings_arguments_work_as_its_manual_shows(cli, tmp_path):
    (tmp_path / "sums.yaml").write_text(yaml.safe_dump(stopping.config(max_epochs=1)))
    succeed(cli, ("fit", "--config", "sums.yaml"))
    run = "runs/sums/version_0"
    plain = LitModule.load_from_checkpoint(
        checkpoint_path=run, map_location="cpu", hparams_file=None, weights_only=True
    )
    assert not plain.training
    wider = {"class_path": "tests.stopping.Net", "init_args": {"dropout": 0.5}}
    with pytest.raises(ValueError, match=r"unexpected net\.2\.weight"):
        LitModule.load_from_checkpoint(run, net=wider)
    loose = LitModule.load_from_checkpoint(run, net=wider, strict=False)
    assert loose.net[0].weight.equal(plain.net[0].weight)


# Null.


def test_null_takes_a_class_away(config):
    one = "model:\n  scheduler: {class_path: StepLR, init_args: {step_size: 1}}\n"
    assert arguments(config(one))["scheduler"]["init_args"]["step_size"] == 1
    assert arguments(config(one, "--config={model: {scheduler: null}}"))["scheduler"] is None
    assert arguments(config(one, "--model.scheduler=null"))["scheduler"] is None


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
    succeed(cli, (*FIT, *SHORT, *options))
    assert "None" not in Path(RUN, "config.yaml").read_text()


@pytest.mark.parametrize(
    ("option", "kind"),
    [
        ("data.batch_size", "int"),
        ("model.net.hidden", "int"),
        ("trainer.accelerator", "str or Accelerator"),
        ("predictions.max_printed", "int"),
    ],
)
@pytest.mark.parametrize("how", ["option", "empty key"])
def test_null_for_what_takes_none_is_one_line(cli, tmp_path, option, kind, how):
    text = "".join(f"{'  ' * depth}{key}:\n" for depth, key in enumerate(option.split(".")))
    (tmp_path / "empty.yaml").write_text(text)
    done = cli(*FIT, *(["--config=empty.yaml"] if how == "empty key" else [f"--{option}=null"]))
    assert done.code == 1
    assert done.err == f"error: {option}: expected {kind}; got null\n"


# References.


def test_a_reference_sees_the_value_that_won(config):
    both = config(
        "model: {net: {init_args: {hidden: '${trainer.max_epochs}'}}}",
        "--trainer.max_epochs=6",
        "--data.batch_size=${data.init_args.passes}",
    )
    assert arguments(both)["net"]["init_args"]["hidden"] == 6
    assert both["data"]["init_args"] == {"batch_size": 250, "passes": 250}


def test_the_environment_gives_values_and_the_checkpoint_holds_what_they_came_to(config, cli, tmp_path, monkeypatch):
    assert config("experiment: any", "--data.passes=${oc.env:PASSES,3}")["data"]["init_args"]["passes"] == 3
    (tmp_path / ".env").write_text("PASSES=6\n")
    monkeypatch.setenv("PASSES", "")
    monkeypatch.delenv("PASSES")
    succeed(cli, (*FIT, "--data.passes=${oc.env:PASSES}", "--trainer.max_epochs=1"))
    (tmp_path / ".env").unlink()
    monkeypatch.delenv("PASSES")
    succeed(cli, ("test", f"--ckpt_path={RUN}"))
    saved = yaml.safe_load((tmp_path / "runs/xor/version_1/config.yaml").read_text())
    assert saved["data"]["init_args"]["passes"] == 6


def test_a_reference_survives_a_run(cli, tmp_path):
    cycle = (
        "class_path: OneCycleLR, init_args: {max_lr: '${model.init_args.optimizer.init_args.lr}', total_steps: null}"
    )
    (tmp_path / "cycle.yaml").write_text(f"model: {{scheduler: {{{cycle}}}, scheduler_interval: step}}\n")
    again = ("fit", f"--config={RUN}/config.yaml", "--model.optimizer.lr=0.001")
    succeed(cli, (*FIT, "--config=cycle.yaml", *SHORT), again)
    last = torch.load(tmp_path / "runs/xor/version_1/checkpoints/last.ckpt", weights_only=True)
    assert last["optimizer_states"][0]["param_groups"][0]["max_lr"] == 0.001
    assert LitModule.load_from_checkpoint(tmp_path / "runs/xor/version_1").scheduler.keywords["max_lr"] == 0.001
    succeed(cli, ("fit", "--ckpt_path=runs/xor/version_1"))


def test_an_escaped_reference_is_a_text(cli):
    run = "runs/${name}/version_0"
    succeed(cli, (*FIT, *SHORT, r"--experiment=\${name}"))
    succeed(cli, ("test", "--ckpt_path", run), ("fit", "--config", f"{run}/config.yaml"))


@pytest.mark.parametrize(
    ("option", "hint"),
    [
        ("--trainer.max_epochs=${nope.x}", "trainer.max_epochs: Interpolation key 'nope.x' not found"),
        ("--trainer.max_epochs=${oc.env:NOPE_X}", "'NOPE_X' not found"),
        ("--trainer.max_epochs=${data.class_path}", "expected int or null; got"),
    ],
    ids=["no such value", "no such variable", "wrong type"],
)
def test_a_wrong_reference_is_one_clear_error(cli, tmp_path, option, hint):
    done = cli(*FIT, option)
    assert done.code == 1
    assert hint in done.err
    assert len(done.err.splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


# Values: a run, its resume, its test and a notebook get the same.

TEXTS = ["1e-3", "12e4567", "on", "2024-01-01", "1_000", "0o17", "@home", "*.png", "&a", "[1].png", "{a", "a: b", "~x"]


@pytest.mark.parametrize("text", [*TEXTS[:2], *(pytest.param(text, marks=pytest.mark.slow) for text in TEXTS[2:])])
def test_any_text_is_read_as_it_was_written(cli, text):
    run = Path("runs", text, "version_0")
    succeed(cli, (*FIT, *SHORT, "--data.batch_size=${data.init_args.passes}", f"--experiment={text}"))
    assert yaml.safe_load((run / "config.yaml").read_text())["experiment"] == text
    succeed(cli, ("test", "--ckpt_path", run), ("fit", "--config", run / "config.yaml"))
    assert {path.name for path in run.parent.iterdir()} == {"version_0", "version_1", "version_2"}


@pytest.mark.parametrize("text", [*TEXTS, "7e10", ".5", "1.", "-.inf", "yes", "null", "#", "'"])
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
    timer = "{class_path: lightning.pytorch.callbacks.Timer, init_args: {duration: '00:01:00:00'}}"
    (tmp_path / "timer.yaml").write_text(f"trainer: {{callbacks+: [{timer}]}}\n")
    succeed(cli, (*FIT, "--config=timer.yaml", *SHORT, f"--model.net={__name__}.Odd"), ("test", f"--ckpt_path={RUN}"))
    assert "serialize" not in (tmp_path / RUN / "config.yaml").read_text()
    LitModule.load_from_checkpoint(tmp_path / RUN)


half = functools.partial(torch.mul, other=0.5)
third = lambda x: x / 3  # noqa: E731, what a checkpoint cannot name by itself


class Picky(stopping.Net):
    """Keeps what it was given."""

    seen: ClassVar[list[Any]] = []

    def __init__(
        self,
        any: Any = None,
        table: dict | None = None,  # type: ignore[type-arg]
        typed: dict[float, str] | None = None,
        word: Callable[..., Any] | str | None = None,
        acts: list[Callable[..., Any]] | None = None,
        kind: type[nn.Module] = nn.ReLU,
    ) -> None:
        super().__init__()
        self.seen.append([any, table, typed, word, acts, kind])


@pytest.fixture
def picky(tmp_path, cli):
    """Fit with arguments of the net as YAML; check what the net was given in each of five commands."""

    def run(text: str, *options: str, **expected: Any) -> None:
        experiment = stopping.config(max_epochs=1)
        experiment["model"]["net"] = {"class_path": f"{__name__}.Picky", "init_args": "ARGS"}
        (tmp_path / "sums.yaml").write_text(yaml.safe_dump(experiment).replace("ARGS", text))
        Picky.seen.clear()
        folder = "runs/sums/version_0"
        succeed(
            cli,
            ["fit", "--config", "sums.yaml", *options],
            ["test", "--ckpt_path", folder],
            ["fit", "--ckpt_path", folder, "--trainer.max_epochs=2"],
            ["fit", "--config", f"{folder}/config.yaml"],
        )
        LitModule.load_from_checkpoint(folder)
        assert len(Picky.seen) == 5
        for name, value in expected.items():
            index = ["any", "table", "typed", "word", "acts", "kind"].index(name)
            assert [repr(each[index]) for each in Picky.seen] == [repr(value)] * 5  # keys of these types

    return run


@pytest.mark.parametrize(
    "keys", ["{4: a, 8: {16: [{2: b}]}}", "{0.5: a, 1.0e-05: b, true: a, null: a}", "{'4': a, 4: b, x: null}"]
)
def test_keys_that_are_no_texts_stay_what_they_are(picky, keys):
    picky(f"{{any: {keys}, table: {keys}}}", any=yaml.safe_load(keys), table=yaml.safe_load(keys))


def test_keys_and_null_in_an_option_stay_what_they_are(picky):
    options = ("--model.net.any=[1]", "--model.net.any={4: null, null: [null, 1e-3]}", "--model.net.table={8: 1}")
    picky("{typed: {0.5: a}}", *options, any={4: None, None: [None, 0.001]}, table={8: 1}, typed={0.5: "a"})


def test_functions_without_an_import_path_keep_the_name_that_the_user_gave(picky):
    functions = f"{{acts: [torch.relu, {__name__}.half], word: {__name__}.half, any: '${{trainer.accelerator}}'}}"
    options = (f"--model.net.word={__name__}.third", "--model.net.kind=torch.nn.GELU")
    picky(functions, *options, word=third, acts=[torch.relu, half], kind=nn.GELU)


def test_a_text_where_a_function_may_stand_stays_a_text(picky):
    picky("{word: l1, any: '${trainer.accelerator}'}", word="l1")


# Tensors.


class Signs(stopping.Sums):
    """Whether the sum is positive."""

    def __init__(self, batch_size: int = 4) -> None:
        super().__init__(batch_size)
        self.data = (self.data[0], (self.data[1] > 0).float())


WHOLE = torch.tensor([0, 7])


class Needy(nn.MSELoss):
    """Must be told a tensor, and has one of whole numbers by default."""

    def __init__(self, scale: Tensor, classes: Tensor = WHOLE) -> None:
        super().__init__()
        assert torch.equal(classes, WHOLE)
        self.scale = scale

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        return super().forward(logits, target) * self.scale


@pytest.fixture
def signs(tmp_path):
    """The options of a fit whose loss is yet to be given its weight."""
    experiment = stopping.config(max_epochs=1)
    experiment["data"] = {"class_path": f"{__name__}.Signs"}
    experiment["model"] |= {"loss": {"class_path": "torch.nn.BCEWithLogitsLoss"}, "metrics": None}
    (tmp_path / "signs.yaml").write_text(yaml.safe_dump(experiment))
    (tmp_path / "weight.yaml").write_text("model: {loss: {init_args: {pos_weight: [0.1]}}}")
    return ("fit", "--config", "signs.yaml")


def saved(number=0):
    return torch.load(f"runs/sums/version_{number}/checkpoints/last.ckpt", weights_only=True)


def test_a_weight_in_yaml_is_the_one_on_the_command_line_in_a_checkpoint_and_in_a_notebook(cli, signs):
    succeed(cli, (*signs, "--config", "weight.yaml"), (*signs, "--model.loss.pos_weight", "[0.1]"), signs)
    yaml_run, option, without = (saved(number)["state_dict"] for number in range(3))
    assert stopping.differences(yaml_run, option) == []
    assert not torch.equal(yaml_run["net.0.weight"], without["net.0.weight"])
    validated = cli("validate", "--ckpt_path", "runs/sums/version_0")
    module = LitModule.load_from_checkpoint("runs/sums/version_0")
    x, target = (part[48:] for part in Signs().data)
    by_hand = nn.functional.binary_cross_entropy_with_logits(module(x), target, pos_weight=torch.tensor([0.1]))
    assert validated.metrics["val/loss"] == pytest.approx(by_hand.item(), rel=1e-5)


@pytest.mark.slow
def test_a_notebook_of_its_own_loads_it(cli, signs, tmp_path):
    # A net of torch's: one of these tests would import the command line along.
    net = ["--model.net=torch.nn.Linear", "--model.net.in_features=4", "--model.net.out_features=1"]
    succeed(cli, (*signs, "--config", "weight.yaml", *net))
    code = "from src.module import LitModule; print(LitModule.load_from_checkpoint({!r}).loss.pos_weight)"
    done = python("-c", code.format(str(tmp_path / "runs/sums/version_0")), cwd=PROJECT)
    assert done.stdout.strip() == "tensor([0.1000])", done.stderr


def test_an_argument_that_must_be_a_tensor_and_one_with_a_default_of_whole_numbers(cli, signs):
    succeed(cli, (*signs, f"--model.loss={__name__}.Needy", "--model.loss.scale=2"))
    assert saved()["config"]["model"]["init_args"]["loss"]["init_args"] == {"scale": 2.0}
    succeed(cli, ("test", "--ckpt_path", "runs/sums/version_0"))
    with pytest.raises(ValueError, match="int64"):
        to_numbers(WHOLE)


@pytest.mark.parametrize("value", [[0.1, -2.5e-7, 3], 4, [[1, 2], [3, 4.5]], [], [float("inf"), 1e-45, -0.0]], ids=str)
def test_numbers_become_float32_and_come_back_to_the_bit(value):
    tensor = to_tensor(value)
    assert tensor.dtype == torch.float32
    assert stopping.differences(to_tensor(to_numbers(tensor)), tensor) == []
    assert str(to_numbers(to_tensor([0.1, 0.3]))) == "[0.1, 0.3]"


@pytest.mark.parametrize("value", ["heavy", "[a, b]", "{a: 1}", "[[1], [2, 3]]"])
@pytest.mark.parametrize("option", ["pos_weight", "scale"])
def test_what_is_no_number_is_one_clear_line(cli, signs, option, value):
    loss = [f"--model.loss={__name__}.Needy"] if option == "scale" else []
    done = cli(*signs, *loss, f"--model.loss.{option}={value}")
    assert done.code == 1
    assert len(done.err.splitlines()) == 1
    assert done.err.startswith(f"error: model.loss.{option}: ")
    assert "numbers" in done.err


# Files that are wrong.


@pytest.mark.parametrize("name", ["wrong.yaml", "local.yaml"])
@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("trainer:\n  max_epochs: 1\ndata:\n  a: 1\ntrainer:\n", ", line 5: 'trainer' stands here a second time"),
        ("model: {a: 1,\n  a: 3}\n", ", line 2: 'a' stands here a second time, first in line 1"),
        ("{1: a, true: b}", ", line 1: 'true' stands here a second time"),
        ("{[1, 2]: a}", ", line 1: a key must be a text"),
        ("config: NAME\n", ": the files that `config:` names lead back to it"),
        ("config: nope.yaml\n", ": config: nope.yaml: nope.yaml does not exist"),
        ("experiment: a\x07\n", ": this is no YAML: unacceptable character"),
        ("trainer:\n\tmax_epochs: 3\n", ", line 2: this is no YAML: "),
        ("- trainer\n- model\n", ": expected options by their names (`trainer:`), got a list."),
        ("experiment: für\n", ": this is no UTF-8 text"),
    ],
)
def test_a_wrong_file_is_one_line_with_its_name(cli, tmp_path, name, text, hint):
    (tmp_path / name).write_text(text.replace("NAME", name), encoding="latin-1")
    done = cli(*FIT, *(["--config", name] if name == "wrong.yaml" else []))
    assert done.code == 1
    assert done.err.startswith(f"error: {name}{hint}")
    assert len(done.err.splitlines()) == 1


def test_a_byte_order_mark_does_no_harm_and_an_empty_file_is_told(config, cli, tmp_path):
    (tmp_path / "mark.yaml").write_bytes("experiment: a\n".encode("utf-8-sig"))
    assert config("{note: x}", "--config=mark.yaml")["experiment"] == "a"
    (tmp_path / "empty.yaml").touch()
    assert cli("fit", "--config", "empty.yaml").err == "error: empty.yaml: the file holds no options.\n"


def test_a_checkpoint_named_in_a_file_is_not_silently_left_out(cli, tmp_path):
    (tmp_path / "more.yaml").write_text(f"ckpt_path: {RUN}\n")
    done = cli("test", "--config", SMALL, "--config", "more.yaml")
    assert done.code == 1
    assert "Give it on the command line: --ckpt_path" in done.err


def test_the_env_file_gives_variables_that_are_not_set_yet_and_a_wrong_line_is_not_shown(tmp_path, monkeypatch):
    lines = {
        "# a comment\n\nSPACED=/data sets/x": "/data sets/x",
        "export QUOTED='q # r' # here": "q # r",
        'DOUBLE = "="': "=",
        "PLAIN=/data # here": "/data",
        "HASH=a#b": "a#b",
        "NOTHING= # nothing": "",
    }
    names = ["SPACED", "QUOTED", "DOUBLE", "PLAIN", "HASH", "NOTHING"]
    for name in names:
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    monkeypatch.setenv("OUTSIDE", "outside")
    (tmp_path / ".env").write_text("\n".join([*lines, "OUTSIDE=file"]))
    read_env_file(tmp_path / ".env")
    assert [os.environ[name] for name in names] == list(lines.values())
    assert os.environ["OUTSIDE"] == "outside"
    (tmp_path / ".env").write_text("secret\n")
    with pytest.raises(ValueError, match=r"\.env, line 1: expected NAME=value\.$"):
        read_env_file(tmp_path / ".env")
