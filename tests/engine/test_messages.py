"""A mistake on the command line or in a file is one line: the option, what came, what is allowed."""

import sys
import traceback
from pathlib import Path

import pytest

from src import __main__ as program
from tests.conftest import SMALL
from tests.xor import XorMLP

FIT = ("fit", "--config", SMALL, "--trainer.max_epochs=1", "--data.passes=3")
HERE = __name__


class Net(XorMLP):
    def __init__(self, width: int = 4) -> None:
        super().__init__(hidden=width)


class Even(XorMLP):
    def __init__(self, hidden: int) -> None:
        if hidden % 2:
            raise ValueError(f"hidden={hidden} must be even")
        super().__init__(hidden)


# Options as YAML writes them, and what the message has to name.
WRONG = {
    "argument": (f"{{model: {{net: {{class_path: {HERE}.Net, init_args: {{widht: 3}}}}}}}}", "net.widht", "width?"),
    "section": ("{trainr: {max_epochs: 2}}", "trainr.max_epochs", "trainer.max_epochs?"),
    "section of model": ("{model: {netz: 1}}", "model.netz", "Did you mean net?"),
    "beside class_path": (f"{{model: {{net: {{class_path: {HERE}.Net, width: 3}}}}}}", "model.net.width", "init_args"),
    "argument of another class": ("--model.optimizer.learning_rate=1", "model.optimizer.learning_rate", "params, lr,"),
    "argument before class": ("--trainer.callbacks.monitor=x", "trainer.callbacks.monitor", ".callbacks CLASS"),
    "class of the same name": ("--model.scheduler=ReduceLROnPlateau", "model.scheduler", "pytorch.cli.ReduceLROn"),
    "class of your module": (f"--model.net={HERE}.Nett", "model.net", "Did you mean Net?"),
    "module": ("--model.net=tests.engine.test_message.Net", "model.net", "Did you mean test_messages?"),
    "no class": (f"--model.net={HERE}", "model.net", "a subclass of Module"),
    "class of another kind": ("--model.optimizer=torch.nn.ReLU", "model.optimizer", "a subclass of <class 'Optim"),
    "class of a metric": ("--model.metrics.acc=BinaryAcuracy", "model.metrics", "BinaryAccuracy?"),
    "class of a callback": ("--trainer.callbacks+=ModelSumary", "trainer.callbacks", "ModelSummary?"),
    "word": ("--model.activation=softmaxx", "model.activation", "'sigmoid', 'softmax'"),
    "argument of a metric": ("--model.metrics.acc.treshold=1", "model.metrics.acc.treshold", "threshold?"),
    "option": ("--trainer.max-epoch=2", "trainer.max-epoch", "trainer.max_epochs?"),
    "option elsewhere": ("--epochs=2", "epochs", "trainer.max_epochs?"),
    "no dashes": ("max_epochs=2", "max_epochs", "--trainer.max_epochs?"),
    "file": ("some.yaml", "some.yaml", "--config some.yaml?"),
    "group": ("--track=mlflow", "track", "--track.mlflow"),
    "number": ("--model.optimizer.lr=fast", "model.optimizer.lr", "expected float"),
    "union": ("--trainer.limit_val_batches=x", "trainer.limit_val_batches", "int or float or null; got 'x'"),
    "number of a scheduler": (
        "{model: {scheduler: {class_path: StepLR, init_args: {step_size: a}}}}",
        "model.scheduler.step_size",
        "expected int; got 'a'",
    ),
    "dict": ("--model.metrics=BinaryAccuracy", "model.metrics", "dict[str, Metric] or null"),
    "required": ("--model.scheduler=StepLR", "StepLR needs step_size", "--model.scheduler.step_size VALUE"),
    "required of a metric": ("--model.metrics.f1=MulticlassF1Score", "num_classes", "--model.metrics.f1.num_classes"),
    "required of a callback": ("--trainer.callbacks=EarlyStopping", "monitor", "--trainer.callbacks.monitor VALUE"),
}


@pytest.mark.parametrize("name", WRONG)
def test_mistake_is_one_line(cli, name):
    given, *words = WRONG[name]
    done = cli(*FIT, *(["--config", given] if given.startswith("{") else [given]))
    assert done.code == 1
    (line,) = [line for line in done.err.splitlines() if not line.startswith("note: ")]
    assert line.startswith("error: ")
    for word in words:
        assert word in line


@pytest.mark.parametrize("typed", ["mine", "configs/mien.yaml"])
def test_missing_config_file(cli, tmp_path, typed):
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs/mine.yaml").touch()
    done = cli("fit", "--config", typed)
    assert done.code == 1
    assert done.err == f"error: --config {typed}: there is no such file. Did you mean configs/mine.yaml?\n"


def test_missing_section_or_experiment(cli, tmp_path):
    (tmp_path / "mine.yaml").write_text("model: {net: {class_path: tests.xor.XorMLP}}\n")
    assert "LitModule needs optimizer. Give --model.optimizer VALUE" in cli("fit", "-c", "mine.yaml").err
    assert "--config configs/NAME.yaml" in cli("fit", "--trainer.max_epochs=1").err


def too_wide(hidden: int = 4) -> XorMLP:
    raise ValueError(f"{hidden} is too wide")


@pytest.mark.parametrize(
    ("net", "last"),
    [
        ("Even", ["ValueError: hidden=3 must be even", f"from {HERE}.Even(hidden=3)"]),
        ("too_wide", ["ValueError: 3 is too wide"]),
    ],
)
def test_bug_keeps_traceback_without_parser(cli, net, last):
    with pytest.raises(ValueError, match=last[0].removeprefix("ValueError: ")) as raised:
        cli(*FIT, f"--model.net={HERE}.{net}", "--model.net.hidden=3")
    lines = "".join(traceback.format_exception(raised.value)).splitlines()
    assert lines[-len(last) :] == last
    assert "raise ValueError" in lines[-len(last) - 1]
    assert not [line for line in lines if "Given value" in line]
    assert [line for line in lines if "jsonargparse" in line] == [] or net == "too_wide"


# The help.


@pytest.mark.parametrize("verb", ["fit", "test"])
def test_help_begins_with_rules_and_examples(cli, verb):
    out = cli(verb, "--help").out
    start, options, _ = out.partition("options:\n")
    assert options
    assert out.startswith(f"usage: python -m src {verb} [options]\n")
    assert len(start.splitlines()) <= 27
    assert start.count(f"python -m src {verb} ") == 3
    for rule in ("--config", "null", "callbacks+:", "${trainer.max_epochs}", "local.yaml"):
        assert rule in start
    assert not [word for word in ("weights_only", "hpc", "'registry'", "completion") if word in out]


def test_help_of_class_is_short(cli):
    out = cli("fit", "--model.help", "src.module.LitModule").out
    assert "known subclasses" not in out
    assert "--model.net.help" in out
    assert len(out.splitlines()) < 70


def test_main_help_names_verbs_and_tools_without_imports(tmp_path, monkeypatch, capsys):
    for path in (tmp_path / "tools/one.py", tmp_path / "tools/two/__init__.py"):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text('"""Draw it: `draw --to x.png`"""\nraise SystemExit\ndef main(): ...\n')
    (tmp_path / "tools/shared.py").write_text('"""Share code."""\n')
    assert program.programs(tmp_path / "tools") == {"one": "Draw it", "two": "Draw it"}
    for words in ([], ["--help"]):
        monkeypatch.setattr(sys, "argv", ["src", *words])
        program.start()
        out = capsys.readouterr().out
        names = ["fit", "validate", "test", "predict", *program.programs(Path(program.__file__).parent / "tools")]
        assert all(f"\n    {name} " in out for name in names)
        assert len(out.splitlines()) < 40
