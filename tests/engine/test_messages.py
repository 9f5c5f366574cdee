"""A user's mistake is one line: the option, what came, what is allowed; and the help."""

import sys
from pathlib import Path

import pytest
from lightning.pytorch import LightningDataModule

from src import __main__ as program
from tests.conftest import SMALL
from tests.xor import XorDataModule, XorMLP

HERE = __name__


class Net(XorMLP):
    def __init__(self, width: int = 4) -> None:
        super().__init__(hidden=width)


class NoTest(LightningDataModule):
    train_dataloader = XorDataModule.train_dataloader


# Options as YAML writes them, and what the message has to name.
CYCLE = "--model.scheduler=OneCycleLR --model.scheduler.max_lr=1 --trainer.max_epochs=-1 --trainer.max_time=00:00:00:01"
STOP = "--trainer.callbacks=EarlyStopping --trainer.callbacks.monitor="
NEEDY = "--model.loss=tests.engine.test_config.Needy --model.loss.scale="
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
    "null": ("--model.net.hidden=null", "model.net.hidden: expected int; got null"),
    "null in a file": ("{trainer: {accelerator: }}", "trainer.accelerator: expected str or Accelerator; got null"),
    "numbers": (f"{NEEDY}heavy", "model.loss.scale: ", "as its numbers, [1.0, 5.0]; got 'heavy'"),
    "rows of numbers": (f"{NEEDY}[[1],[2,3]]", "model.loss.scale: ", "numbers"),
    "reference": ("--trainer.max_epochs=${no.x}", "trainer.max_epochs: Interpolation key 'no.x' not", r"\${...}"),
    "variable": ("--trainer.max_epochs=${oc.env:NO_X}", "'NO_X'", r"\${...}"),
    "half a reference": ("--trainer.max_epochs=${a", "input '${a'", r"\${...}"),
    "no metric": ("--model.metrics.bad=torch.nn.MSELoss", "model.metrics", "torch.nn.MSELoss", "Metric"),
    "checkpoint in a file": ("{ckpt_path: a.ckpt}", "--ckpt_path"),
    "dict": ("--model.metrics=BinaryAccuracy", "model.metrics", "dict[str, Metric] or null"),
    "required": ("--model.scheduler=StepLR", "StepLR needs step_size", "--model.scheduler.step_size VALUE"),
    "required of a metric": ("--model.metrics.f1=MulticlassF1Score", "num_classes", "--model.metrics.f1.num_classes"),
    "required of a callback": ("--trainer.callbacks=EarlyStopping", "monitor", "--trainer.callbacks.monitor VALUE"),
    "accelerator": ("--trainer.accelerator=gpuu", "Available names are"),
    "value that a callback refuses": (f"{STOP}val/loss --trainer.callbacks.mode=minim", "mode"),
    "test without data": (f"--data={HERE}.NoTest", "neither LitModule nor NoTest has a test_dataloader"),
}
# What shows when the fit begins.
LATE = {
    "learning rate": ("--model.optimizer.lr=-1", "Invalid learning rate: -1"),
    "schedule without an end": (CYCLE, "number of epochs. Set --trainer.max_epochs; or give a number"),
    "steps without an end": (f"{CYCLE} --model.scheduler_interval=step", "Set --trainer.max_steps, or --trainer.max_e"),
    "monitor that is not logged": (f"{STOP}v", "`v`"),
    "monitor without a tracker": ("--trainer.callbacks=LearningRateMonitor", "no logger"),
    "interval": ("--trainer.val_check_interval=1000", "val_check_interval"),
    "seed": (f"--seed_everything={2**40}", "seed_everything"),
}


@pytest.mark.parametrize("name", [*WRONG, *LATE])
def test_a_mistake_in_an_option_is_one_line(cli, tmp_path, name):
    given, *words = (WRONG | LATE)[name]
    options = ["--config", given] if given.startswith("{") else given.split()
    done = cli("fit", "--config", SMALL, *options)
    assert_one_line(done, words)
    assert name in LATE or not list(tmp_path.glob("runs/*"))


def assert_one_line(done, words):
    assert done.code == 1
    (line,) = [line for line in done.err.splitlines() if not line.startswith(("note: ", "run "))]
    assert line.startswith("error: ")
    for word in words:
        assert word in line


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("", "fit, validate, test, predict"),
        ("fot", "Did you mean fit?"),
        ("fit --trainer.max_epochs=1", "--config configs/NAME.yaml"),
        ("fit --model.net=tests.xor.XorMLP", "LitModule needs optimizer. Give --model.optimizer VALUE"),
        ("test --ckpt_path nope.ckpt", "ckpt_path=nope.ckpt does not exist"),
        ("test --ckpt_path .", "is a folder without last.ckpt"),
    ],
)
def test_a_mistake_in_a_command_is_one_line(cli, command, words):
    assert_one_line(cli(*command.split()), [words])


@pytest.mark.parametrize("typed", ["mine", "configs/mien.yaml"])
def test_missing_config_file(cli, tmp_path, typed):
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs/mine.yaml").touch()
    done = cli("fit", "--config", typed)
    assert done.code == 1
    assert done.err == f"error: --config {typed}: there is no such file. Did you mean configs/mine.yaml?\n"


@pytest.mark.parametrize("verb", ["fit", "test"])
def test_the_help_begins_with_rules_and_leaves_out_lists_of_classes(cli, verb):
    start, _, options = cli(verb, "--help").out.partition("options:\n")
    assert start.startswith(f"usage: python -m src {verb} [options]\n")
    for rule in ("--config", "null", "callbacks+:", "${trainer.max_epochs}", "local.yaml"):
        assert rule in start
    assert not [word for word in ("weights_only", "hpc", "'registry'", "completion") if word in options]
    of_class = cli(verb, "--model.help", "src.module.LitModule").out
    assert "known subclasses" not in of_class
    assert "--model.net.help" in of_class


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
