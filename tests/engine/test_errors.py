"""A user's mistake is one line: the option, what came, what is allowed; a bug keeps its traceback."""

import dataclasses
import json
import traceback
from collections import UserDict, namedtuple

import numpy as np
import pytest
import torch
from lightning.pytorch import Callback
from lightning.pytorch.utilities import CombinedLoader

from src.engine.data.batches import describe
from tests.conftest import SMALL
from tests.xor import XorDataModule

HERE = __name__


# Options as YAML writes them, and what the message has to name.
CYCLE = "--model.scheduler=OneCycleLR --model.scheduler.max_lr=1 --trainer.max_epochs=-1 --trainer.max_time=00:00:00:01"
STOP = "--trainer.callbacks=EarlyStopping --trainer.callbacks.monitor="
NEEDY = "--model.loss=tests.engine.test_config.Needy --model.loss.scale="
WRONG = {
    "argument": ("{model: {net: {class_path: tests.xor.XorMLP, init_args: {hiden: 3}}}}", "net.hiden", "hidden?"),
    "section": ("{trainr: {max_epochs: 2}}", "trainr.max_epochs", "trainer.max_epochs?"),
    "beside class_path": ("{model: {net: {class_path: tests.xor.XorMLP, hidden: 3}}}", "net.hidden", "init_args"),
    "argument of another class": ("--model.optimizer.learning_rate=1", "model.optimizer.learning_rate", "params, lr,"),
    "argument before class": ("--trainer.callbacks.monitor=x", "trainer.callbacks.monitor", ".callbacks CLASS"),
    "monitor": ("--model.scheduler=StepLR --model.scheduler.monitor=a", "model.scheduler.monitor", "cli.ReduceLROn"),
    "class of the same name": ("--model.scheduler=ReduceLROnPlateau", "model.scheduler", "pytorch.cli.ReduceLROn"),
    "class of your module": ("--model.net=tests.xor.XorMPL", "model.net", "Did you mean XorMLP?"),
    "module": ("--model.net=tests.engine.test_error.Net", "model.net", "Did you mean test_errors?"),
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
    "in a dict": ("{model: {scheduler: {class_path: StepLR, init_args: {step_size: a}}}}", "expected int; got 'a'"),
    "null": ("--model.net.hidden=null", "model.net.hidden: expected int; got null"),
    "null in a file": ("{trainer: {accelerator: }}", "trainer.accelerator: expected str or Accelerator; got null"),
    "numbers": (f"{NEEDY}heavy", "model.loss.scale: ", "as its numbers, [1.0, 5.0]; got 'heavy'"),
    "rows of numbers": (f"{NEEDY}[[1],[2,3]]", "model.loss.scale: ", "numbers"),
    "reference": ("--trainer.max_epochs=${no.x}", "trainer.max_epochs: Interpolation key 'no.x' not", r"\${...}"),
    "half a reference": ("--trainer.max_epochs=${a", "input '${a'", r"\${...}"),
    "no metric": ("--model.metrics.bad=torch.nn.MSELoss", "model.metrics", "torch.nn.MSELoss", "Metric"),
    "checkpoint in a file": ("{ckpt_path: a.ckpt}", "--ckpt_path"),
    "dict": ("--model.metrics=BinaryAccuracy", "model.metrics", "dict[str, Metric] or null"),
    "required": ("--model.scheduler=StepLR", "StepLR needs step_size", "--model.scheduler.step_size VALUE"),
    "required of a metric": ("--model.metrics.f1=MulticlassF1Score", "num_classes", "--model.metrics.f1.num_classes"),
    "required of a callback": ("--trainer.callbacks=EarlyStopping", "monitor", "--trainer.callbacks.monitor VALUE"),
    "accelerator": ("--trainer.accelerator=gpuu", "Available names are"),
    "value that a callback refuses": (f"{STOP}val/loss --trainer.callbacks.mode=minim", "mode"),
    "address": ("--trainer.default_root_dir=s3://a/runs", "trainer.default_root_dir=s3://a/runs", "is an address"),
    "address of two parts": ("--experiment=a::b", "experiment=a::b: a path with `://` or `::` is an address"),
    "weights": ("--transfer.weights=nope", "transfer.weights=nope does not exist."),
    "two beginnings": ("--transfer.weights=a --ckpt_path=b", "Give one of them."),
    "no test": ("--data=tests.engine.test_predictions.Data", "neither LitModule nor Data has a test_dataloader"),
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
    assert_one_line(cli("fit", "--config", SMALL, *options), *words)
    assert name in LATE or not list(tmp_path.glob("runs/*/*"))


def assert_one_line(done, *words):
    assert done.code == 1
    (line,) = [line for line in done.err.splitlines() if not line.startswith(("note: ", "run "))]
    assert line.startswith("error: ")
    for word in words:
        assert word in line


COMMANDS = {
    "": "fit, validate, test, predict",
    "fot": "Did you mean fit?",
    "fit --config mine": "--config mine: there is no such file. Did you mean configs/mine.yaml?",
    "fit --config configs/mien.yaml": "there is no such file. Did you mean configs/mine.yaml?",
    "fit --trainer.max_epochs=1": "--config configs/NAME.yaml",
    "fit --model.net=tests.xor.XorMLP": "LitModule needs optimizer. Give --model.optimizer VALUE",
    "test --ckpt_path nope.ckpt": "ckpt_path=nope.ckpt does not exist",
    "test --ckpt_path .": "is a folder without last.ckpt",
}


@pytest.mark.parametrize(("command", "words"), COMMANDS.items())
def test_a_mistake_in_a_command_is_one_line(cli, tmp_path, command, words):
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs/mine.yaml").touch()
    assert_one_line(cli(*command.split()), words)


class Net(torch.nn.Linear):
    """Fails when it is made, or on a batch of one row; with an error of its own or one that torch raises, too."""

    def __init__(self, as_torch: bool = False, width: int = 2) -> None:
        super().__init__(width, 1)
        if width > 2:
            raise ValueError("bad row")
        self.error = RuntimeError if as_torch else KeyError

    def forward(self, x):
        if len(x) < 2:
            raise self.error("bad row")
        return super().forward(x)


def function(width: int = 3) -> Net:
    return Net(width=width)


class Misused(XorDataModule):
    def val_dataloader(self):
        CombinedLoader([], mode="bad row")


class AfterValidation(Callback):
    def on_validation_epoch_end(self, trainer, module):
        raise RuntimeError("bad row")


NET = [f"--model.net={HERE}.Net", "--data.batch_size=3", "--trainer.num_sanity_val_steps=0"]
LINEAR = ["--model.net=torch.nn.Linear", "--model.net.in_features=3", "--model.net.out_features=1"]
LAST_BATCH = "net Net, loss BCEWithLogitsLoss; the batch was x (1, 2) float32"
MADE = f"from {HERE}.Net(as_torch=False, width=3)"
PLACES = {
    "constructor": ([f"--model.net={HERE}.Net", "--model.net.width=3"], MADE),
    "constructor in a function": ([f"--model.net={HERE}.function"], None),
    "net": (NET, LAST_BATCH),
    "net, as torch does": ([*NET, "--model.net.as_torch=true"], LAST_BATCH),
    "a net that does not fit": (LINEAR, "net Linear, loss BCEWithLogitsLoss; the batch was x (4, 2) float32"),
    "data, by Lightning": ([f"--data={HERE}.Misused"], None),
    "callback": ([f"--trainer.callbacks={HERE}.AfterValidation"], None),
}


@pytest.mark.parametrize("place", PLACES)
def test_an_error_of_a_users_own_code_keeps_its_traceback_with_the_batch_below(cli, tmp_path, place):
    options, expected = PLACES[place]
    with pytest.raises((ValueError, KeyError, OSError, RuntimeError), match=r"bad row|shapes cannot") as raised:
        cli("fit", "--config", SMALL, *options)
    notes = [note for note in getattr(raised.value, "__notes__", []) if not note.startswith("run ")]
    assert [note.partition(", target")[0] for note in notes] == ([expected] if expected else [])
    shown = "".join(traceback.format_exception(raised.value))
    assert "Given value" not in shown
    assert "jsonargparse" not in shown or "function" in options[0]
    if not place.startswith("constructor"):
        said = json.loads((tmp_path / "runs/xor/version_0/summary.json").read_text())
        assert (said["state"], said["metrics"]) == ("failed", {})
        assert type(raised.value).__name__ in said["reason"]


def test_batches_of_any_kind_are_described():
    ids = torch.zeros(2, 3, dtype=torch.int64)
    assert describe((1,)) == "int"
    assert describe((torch.zeros(2), {})) == "x (2,) float32, target dict"
    assert describe([["a", "b"], [1, 2, 3]]) == "[str, str], [3 x int]"
    assert describe(np.zeros((2, 3))) == "(2, 3) float64"
    said = "ids (2, 3) int64, more [a (2, 3) int64, b str]"
    more = UserDict(a=ids, b="text")  # as the batches of tokenizers are
    assert describe(UserDict(ids=ids, more=more)) == said
    assert describe(namedtuple("Batch", ["ids", "more"])(ids, more)) == said
    assert describe(dataclasses.make_dataclass("Batch", ["ids", "more"])(ids, more)) == said
    assert describe((more, ids)) == "x [a (2, 3) int64, b str], target (2, 3) int64"
