"""Files, options, a checkpoint and the environment become one config by one rule; what a run writes reads the same."""

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
import yaml
from torch import Tensor, nn

from src.engine.config.compose import as_yaml, compose, load, merge
from src.engine.config.parser import to_numbers, to_tensor
from src.engine.errors import UserError
from src.module import LitModule
from tests import stopping
from tests.conftest import SMALL
from tests.xor import INPUTS, TARGETS

FIT = ("fit", "--config", SMALL)
SHORT = ("--trainer.max_epochs=1", "--data.passes=2")
RUN = "runs/xor/version_0"


def merged(*words, carried=None):
    return compose(carried or {}, [str(word) for word in words])[0]


def sgd(name="torch.optim.SGD", **options):
    return {"optimizer": {"class_path": name, "init_args": options}}


@pytest.mark.parametrize(
    ("base", "over", "result"),
    [
        ({"a": {"x": {"b": 1, "c": 2}}}, {"a": {"x": {"b": 3}}}, {"a": {"x": {"b": 3, "c": 2}}}),
        ({"a": {"x": {"b": 1, "c": 2}}}, {"a": {"x": {"b": None}}}, {"a": {"x": {"c": 2}}}),
        # An option is null, only an entry is deleted.
        ({"a": {"b": {"class_path": "B"}}}, {"a": {"b": None}}, {"a": {"b": None}}),
        ({"a": {"b": [1]}}, {"a": {"b": [2]}}, {"a": {"b": [2]}}),
        ({"a": {"b": "one"}}, {"a": {"b+": "two"}}, {"a": {"b": ["one", "two"]}}),
        ({"a": {}}, {"a": {"b+": [2]}}, {"a": {"b": [2]}}),
        ({"data": {"a": 1}}, {"data": {"class_path": "A"}}, {"data": {"class_path": "A", "init_args": {"a": 1}}}),
        ({"a": [{"class_path": "A"}]}, {"a": {"c": 1}}, {"a": [{"class_path": "A", "init_args": {"c": 1}}]}),
        ({"model": {"a": 1}}, {"model": None}, {"model": {"a": 1}}),
        # The same class keeps its arguments, by whichever name; so does your subclass, and a class that was renamed.
        (sgd(lr=1), {"optimizer": {"momentum": 2}}, sgd(lr=1, momentum=2)),
        (sgd(lr=1), {"optimizer": "{momentum: 2}"}, sgd(lr=1, momentum=2)),
        (sgd(lr=1), {"optimizer": {"init_args": {"momentum": 2}}}, sgd(lr=1, momentum=2)),
        (sgd(lr=1), sgd("SGD", momentum=2), sgd("SGD", lr=1, momentum=2)),
        (sgd(lr=1), {"optimizer": "SGD"}, sgd("SGD", lr=1)),
        (sgd("tests.stopping.Net", dropout=1), {"optimizer": f"{__name__}.Picky"}, sgd(f"{__name__}.Picky", dropout=1)),
        (sgd("lost_module.Net", dropout=1), {"optimizer": f"{__name__}.Picky"}, sgd(f"{__name__}.Picky", dropout=1)),
    ],
)
def test_values_are_merged_by_one_rule(base, over, result):
    assert merge(base, over) == result


def test_later_file_wins_and_options_win_over_files(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("sub").mkdir()
    Path("local.yaml").write_text("trainer: {max_epochs: 1, devices: 2}\nnote: local\n")
    Path("base.yaml").write_text("trainer: {max_epochs: 2, callbacks: [A]}\n")
    Path("sub/mid.yaml").write_text("config: ../base.yaml\ndata: {init_args: {passes: 9}}\n")
    Path("sub/top.yaml").write_text("config: [mid.yaml]\ntrainer: {callbacks+: [B]}\n")
    Path("more.yaml").write_text("trainer: {callbacks+: [C]}\ndata:\n  init_args:\ncheckpoint:\n  # a: 1\n")
    files = ("--config=sub/top.yaml", "--config=more.yaml", "--config={note: later}")
    both = merged("--data.passes=7", *files, carried={"note": "carried"})
    trainer = {"max_epochs": 2, "devices": 2, "callbacks": ["A", "B", "C"]}
    assert both == {"trainer": trainer, "note": "later", "data": {"init_args": {"passes": "7"}}}
    assert merged(carried={"note": "carried"})["note"] == "carried"  # a checkpoint wins over this machine's defaults
    Path("local.yaml").write_text("# note: local\n")
    assert merged() == {}


@pytest.mark.parametrize("how", ["--model.optimizer=torch.optim.Adam", "--config={model: {optimizer: Adam}}"])
def test_another_class_drops_arguments_with_a_note(how, capsys):
    optimizer = merged("--config", SMALL, how)["model"]["init_args"]["optimizer"]
    assert optimizer["class_path"].endswith("Adam")
    assert "init_args" not in optimizer
    assert "lr=0.5" in capsys.readouterr().err


def test_reference_sees_the_final_value_and_env_file_is_text(cli, tmp_path, monkeypatch, caplog):
    monkeypatch.setenv("PASSES", "7")
    (tmp_path / ".env").write_text("HIDDEN=5 # this machine's\nPASSES=6\nmy secret\n", encoding="utf-8-sig")
    monkeypatch.setenv("HIDDEN", "")
    monkeypatch.delenv("HIDDEN")
    words = ("--model.net.hidden=${trainer.max_epochs}", "--trainer.max_epochs=6", "--data.batch_size=${oc.env:HIDDEN}")
    done = cli(*FIT, *words, "--data.passes=${oc.env:PASSES}", r"--note=\${x}", "--print_config")
    both = yaml.safe_load(done.out)
    assert both["model"]["init_args"]["net"]["init_args"]["hidden"] == 6
    assert both["data"]["init_args"] == {"batch_size": 5, "passes": 7}
    assert "line 3" in caplog.text
    assert "secret" not in caplog.text
    (tmp_path / ".env").write_bytes(b"SECRET=\xff\n")
    assert cli(*FIT).err.startswith("error: .env: this is no UTF-8 text")


def test_a_run_its_config_and_its_checkpoint_hold_the_values(cli, monkeypatch):
    monkeypatch.setenv("PASSES", "2")
    words = ("--experiment=1e-3", r"--note=\${name}", "--data.passes=${oc.env:PASSES}", "--trainer.max_epochs=1")
    assert cli(*FIT, *words, "--model.net.hidden=${data.init_args.passes}").code == 0
    monkeypatch.delenv("PASSES")
    run = "runs/1e-3/version_{}"
    assert cli("fit", "--config", run.format(0) + "/config.yaml").code == 0
    assert cli("test", "--ckpt_path", run.format(1)).code == 0
    first, again, tested = (Path(run.format(number), "config.yaml").read_text() for number in range(3))
    assert first == again
    for config in (yaml.safe_load(again), yaml.safe_load(tested)):
        assert (config["experiment"], config["note"]) == ("1e-3", r"\${name}")
        assert config["data"]["init_args"]["passes"] == config["model"]["init_args"]["net"]["init_args"]["hidden"] == 2


TEXTS = ["1e-3", "12e4567", "on", "2024-01-01", "1_000", "0o17", "@home", "*.png", "&a", "[1].png", "{a", "a: b", "~x"]


@pytest.mark.parametrize("text", [*TEXTS, "7e10", ".5", "1.", "-.inf", "yes", "null", "#", "'"])
def test_yaml_comes_back_the_same(text):
    value = {"text": text, "list": [text, 1e-05, float("inf"), None, True]}
    assert yaml.safe_load(as_yaml(value)) == load(as_yaml(value), "text") == value
    assert merged(f"--note={text}", carried={"note": "old"})["note"] == (None if text == "null" else text)


class Opaque:
    """An object that YAML cannot hold."""


half = functools.partial(torch.mul, other=0.5)
third = lambda x: x / 3  # noqa: E731, has no import path


class Picky(stopping.Net):
    """Records its arguments; some defaults are values that YAML cannot hold."""

    seen: ClassVar[list[Any]] = []

    def __init__(
        self,
        any: Any = None,
        table: dict | None = None,  # type: ignore[type-arg]
        word: Callable[..., Any] | str | None = None,
        text: Callable[..., Any] | str | None = None,
        acts: list[Callable[..., Any]] | None = None,
        kind: type[nn.Module] = nn.ReLU,
        path: Path | None = Path("x"),
        device: torch.device = torch.device("cpu"),  # noqa: B008
        opaque=Opaque(),  # noqa: B008
        opaques: list[Opaque] = [Opaque()],  # noqa: B006, B008
        scale=lambda x: x,
        number=2 + 1j,
    ) -> None:
        super().__init__()
        self.seen.append([any, table, word, text, acts, kind, path, device, opaque, opaques, scale, number])


def test_arguments_stay_what_they_are(cli, tmp_path):
    """In a fit, its resume, a fit of its config.yaml and a notebook."""
    timer = {"class_path": "lightning.pytorch.callbacks.Timer", "init_args": {"duration": "00:01:00:00"}}
    experiment = stopping.config(max_epochs=1, callbacks=(timer,), limit_train_batches=2)
    functions = {"acts": ["torch.relu", f"{__name__}.half"], "word": f"{__name__}.half", "text": "l1"}
    keys = {0.5: "a", 4: {16: [{None: "b"}]}, "4": None, True: "c"}
    experiment["model"]["net"] = {"class_path": f"{__name__}.Picky", "init_args": functions | {"table": keys}}
    (tmp_path / "sums.yaml").write_text(yaml.safe_dump(experiment))
    options = (f"--model.net.word={__name__}.third", "--model.net.kind=torch.nn.GELU", "--model.net.path=null")
    Picky.seen.clear()
    folder = "runs/sums/version_0"
    for words in (
        ["--config", "sums.yaml", *options, "--model.net.any={4: null, null: [null, 1e-3]}"],
        ["--ckpt_path", folder, "--trainer.max_epochs=2"],
        ["--config", f"{folder}/config.yaml"],
    ):
        assert cli("fit", *words).code == 0
    LitModule.load_from_checkpoint(folder)
    given = [{4: None, None: [None, 0.001]}, keys, third, "l1", [torch.relu, half], nn.GELU, None]
    assert len(Picky.seen) == 4
    for seen in Picky.seen:
        assert repr(seen[:7]) == repr(given)  # keys of these types
        assert seen[7:] == Picky.seen[0][7:]
    assert "serialize" not in (tmp_path / folder / "config.yaml").read_text()


WHOLE = torch.tensor([0, 7])


class Needy(nn.BCEWithLogitsLoss):
    """Requires a tensor, and has one of whole numbers by default."""

    def __init__(self, scale: Tensor, classes: Tensor = WHOLE, pos_weight: Tensor | None = None) -> None:
        super().__init__(pos_weight=pos_weight)
        assert torch.equal(classes, WHOLE)
        self.scale = scale

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        return super().forward(logits, target) * self.scale


def test_weight_of_a_loss_is_the_same_everywhere(cli):
    weight = "--config={model: {loss: {init_args: {pos_weight: [0.1]}}}}"
    assert cli(*FIT, *SHORT, f"--model.loss={__name__}.Needy", "--model.loss.scale=2", weight).code == 0
    config = yaml.safe_load(Path(RUN, "config.yaml").read_text())
    assert config["model"]["init_args"]["loss"]["init_args"] == {"scale": 2.0, "pos_weight": [0.1]}
    scores = LitModule.load_from_checkpoint(RUN)(INPUTS)
    by_hand = 2 * nn.functional.binary_cross_entropy_with_logits(scores, TARGETS, pos_weight=torch.tensor([0.1]))
    assert cli("validate", "--ckpt_path", RUN).metrics["val/loss"] == pytest.approx(by_hand.item(), rel=1e-5)


@pytest.mark.parametrize("value", [[0.1, -2.5e-7, 3], 4, [[1, 2], [3, 4.5]], [], [float("inf"), 1e-45, -0.0]], ids=str)
def test_tensor_of_numbers_comes_back_to_the_bit(value):
    tensor = to_tensor(value)
    assert tensor.dtype == torch.float32
    assert stopping.differences(to_tensor(to_numbers(tensor)), tensor) == []
    assert str(to_numbers(to_tensor([0.1, 0.3]))) == "[0.1, 0.3]"


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("trainer:\n  max_epochs: 1\ndata:\n  a: 1\ntrainer:\n", ", line 5: .*'trainer' is given twice, first in"),
        ("config: wrong.yaml\n", ": its `config:` entries include each other"),
        ("config: nope.yaml\n", ": config: nope.yaml: there is no such file"),
        ("experiment: a\x07\n", ": .* unacceptable character"),
        ("trainer:\n\tmax_epochs: 3\n", ", line 2: "),
        ("- trainer\n- model\n", ": expected options by their names"),
        ("experiment: für\n", ": this is no UTF-8 text"),
    ],
)
def test_wrong_file_is_named(tmp_path, monkeypatch, text, hint):
    monkeypatch.chdir(tmp_path)
    Path("wrong.yaml").write_text(text, encoding="latin-1")
    with pytest.raises(UserError, match=rf"^wrong\.yaml{hint}"):
        merged("--config=wrong.yaml")
