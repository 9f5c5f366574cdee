"""A user's mistake: one clear message, an exit code that is not 0, no traceback, nothing lost."""

import sys
import traceback

import pytest

from src.engine.config.messages import explain
from tests.conftest import CONFIGS, SMALL, run_process

FIT = ("fit", "--config", SMALL)
ONE_CYCLE = ("--model.scheduler=OneCycleLR", "--model.scheduler.max_lr=1")
MISTAKES = {
    "unknown option": ([*FIT, "--trainer.max_epoch=3"], "Did you mean trainer.max_epochs?"),
    "unknown argument of a class": ([*FIT, "--model.net.hiden=3"], "Did you mean hidden?"),
    "wrong type": ([*FIT, "--trainer.max_epochs=x"], "trainer.max_epochs: expected int or null; got 'x'"),
    "wrong type in a class": ([*FIT, "--model.net.hidden=a"], "hidden: expected int; got 'a'"),
    "wrong choice": ([*FIT, "--trainer.precision=17"], "expected one of 64, 32, 16"),
    "mistyped class": ([*FIT, "--model.net.class_path=tests.xor.XorMPL"], "Did you mean XorMLP?"),
    "mistyped module": ([*FIT, "--model.net=tests.xr.XorMLP"], "Did you mean xor?"),
    "class by a wrong name in its module": ([*FIT, "--model.optimizer=Adm"], "there is no 'Adm'. Did you mean Adam?"),
    "learning rate": ([*FIT, "--model.optimizer.lr=-1"], "Invalid learning rate: -1"),
    "schedule without an end": (
        [*FIT, *ONE_CYCLE, "--trainer.max_epochs=-1", "--trainer.max_time=00:00:00:01"],
        "Set --trainer.max_epochs; or give the scheduler a number",
    ),
    "steps between checkpoints": ([*FIT, "--checkpoint.every_n_steps=0"], "every_n_steps=0 must be at least 1"),
    "batches between signals": ([*FIT, "--signals.every_n_batches=0"], "every_n_batches=0 must be at least 1"),
    "empty checkpoint": (["test", "--ckpt_path", ""], "ckpt_path is empty"),
    "missing weights": ([*FIT, "--transfer.weights=nope"], "transfer.weights=nope does not exist"),
    "class in small letters": ([*FIT, "--model.optimizer=adam"], "optimizer: there is no 'adam'. Did you mean Adam?"),
    "class by a wrong name": ([*FIT, "--model.loss=BCEWithLogitLoss"], "Did you mean BCEWithLogitsLoss?"),
    "scheduler by a wrong name": ([*FIT, "--model.scheduler=StepLRR"], "Did you mean StepLR?"),
    "metric by a wrong name": ([*FIT, "--model.metrics.acc=BinaryAcuracy"], "Did you mean BinaryAccuracy?"),
    "data by a wrong name": ([*FIT, "--data=tests.xor.XorData"], "there is no 'XorData' in tests.xor"),
    "file without its option": (["fit", str(SMALL)], f"Did you mean --config {SMALL}?"),
    "fragment alone": (["fit", "--config", CONFIGS / "trainer/ddp.yaml"], "name the YAML of an experiment first"),
    "unknown verb": (["fot", *FIT[1:]], "Did you mean fit?"),
    "no verb": ([], "fit, validate, test, predict"),
    "missing config": (["fit", "--config", "nope.yaml"], "nope.yaml"),
    "no config": (["fit"], "required"),
    "missing checkpoint": (["test", "--ckpt_path", "nope.ckpt"], "ckpt_path=nope.ckpt does not exist"),
    "folder without checkpoints": (["test", "--ckpt_path", "."], "folder without checkpoints"),
    "device that is not here": ([*FIT, "--trainer.accelerator=tpu"], "not"),
    "unknown accelerator": ([*FIT, "--trainer.accelerator=gpuu"], "Available names are"),
    "batch size of 0": ([*FIT, "--data.batch_size=0"], "batch_size=0 must be at least 1"),
    "fewer passes than one": ([*FIT, "--data.passes=-3"], "passes=-3 must be at least 1. Set --data.passes"),
    "unknown monitor": ([*FIT, "--checkpoint.monitor=val/lss"], "there are"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_answered_in_two_lines_at_most(cli, name):
    arguments, hint = MISTAKES[name]
    done = cli(*arguments)
    assert done.code != 0
    assert hint in done.err
    assert "Traceback" not in done.err
    assert len([line for line in done.err.splitlines() if "Seed set" not in line]) <= 2


@pytest.mark.slow
def test_the_process_itself_exits_with_the_code_and_without_a_traceback(tmp_path):
    done = run_process(*FIT, "--trainer.max_epoch=3", cwd=tmp_path)
    assert done.returncode == 1
    assert done.stderr == "error: trainer.max_epoch: there is no such option. Did you mean trainer.max_epochs?\n"
    assert list(tmp_path.iterdir()) == []


def test_val_size_that_leaves_nothing_is_refused(cli, mnist):
    done = cli(
        "fit", "--config", CONFIGS / "mnist.yaml", f"--data.root={mnist.root}", f"--data.val_size={mnist.num_train}"
    )
    assert done.code != 0
    assert f"val_size={mnist.num_train} must be in 1..{mnist.num_train - 1}" in done.err


def test_a_root_that_cannot_be_written_is_one_clear_error(cli, mnist):
    done = cli("fit", "--config", CONFIGS / "mnist.yaml", "--data.root=/proc/nope")
    assert done.code != 0
    assert "/proc/nope" in done.err
    assert "Traceback" not in done.err


OWN = """
import torch
from lightning.pytorch import Callback
from tests.xor import XorDataModule

def go_wrong(kind):
    raise {"ValueError": ValueError("bad row"), "KeyError": KeyError("bad row"), "OSError": OSError("bad row")}[kind]

class Net(torch.nn.Linear):
    def __init__(self, kind: str, at: str = "forward") -> None:
        super().__init__(2, 1)
        self.kind, self.at = kind, at
        if at == "__init__":
            go_wrong(kind)

    def forward(self, x):
        go_wrong(self.kind)

class Data(XorDataModule):
    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind

    def setup(self, stage):
        go_wrong(self.kind)

class OwnCallback(Callback):
    def __init__(self, kind: str) -> None:
        self.kind = kind

    def on_train_start(self, trainer, module):
        go_wrong(self.kind)
"""
PLACES = {
    "net": ["--model.net=own.Net", "--model.net.kind={}"],
    "a net's constructor": ["--model.net=own.Net", "--model.net.kind={}", "--model.net.at=__init__"],
    "data": ["--data=own.Data", "--data.kind={}"],
    "callback": ["--trainer.callbacks=own.OwnCallback", "--trainer.callbacks.kind={}"],
}


@pytest.mark.parametrize("kind", ["ValueError", "KeyError", "OSError"])
@pytest.mark.parametrize("place", PLACES)
def test_an_error_of_a_users_own_code_keeps_its_traceback(cli, tmp_path, monkeypatch, place, kind):
    (tmp_path / "own.py").write_text(OWN)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "own", raising=False)
    with pytest.raises((ValueError, KeyError, OSError), match="bad row") as raised:
        cli(*FIT, *(option.format(kind) for option in PLACES[place]))
    assert type(raised.value).__name__ == kind
    assert "own.py" in traceback.format_exc() + "".join(traceback.format_exception(raised.value))
    assert "go_wrong(" in "".join(traceback.format_exception(raised.value))


@pytest.mark.slow
def test_a_bug_ends_the_process_with_its_traceback_and_the_shapes(tmp_path):
    (tmp_path / "own.py").write_text(OWN)
    done = run_process(*FIT, *(option.format("KeyError") for option in PLACES["net"]), cwd=tmp_path)
    assert done.returncode == 1
    assert "own.py" in done.stderr
    assert done.stderr.splitlines()[-2:] == [
        "KeyError: 'bad row'",
        "net Net, loss BCEWithLogitsLoss; the batch was x (4, 2) float32, target (4, 1) float32",
    ]


LIBRARIES_REFUSE = {
    "metric": (["--model.metrics.acc=BinaryAccuracy", "--model.metrics.acc.threshold=7"], "BinaryAccuracy: "),
    "callback": (
        ["--trainer.callbacks=EarlyStopping", "--trainer.callbacks.monitor=val/loss", "--trainer.callbacks.mode=minim"],
        "mode",
    ),
    "optimizer": (["--model.optimizer.momentum=-3"], "SGD: Invalid momentum value: -3"),
    "scheduler": (
        ["--model.scheduler=OneCycleLR", "--model.scheduler.max_lr=1", "--model.scheduler.pct_start=2"],
        "OneCycleLR: Expected float between 0 and 1",
    ),
}


@pytest.mark.parametrize("what", LIBRARIES_REFUSE)
def test_what_a_class_of_a_library_says_of_its_arguments_is_one_line(cli, what):
    options, hint = LIBRARIES_REFUSE[what]
    done = cli(*FIT, *options)
    assert done.code == 1
    assert hint in done.err
    assert "Traceback" not in done.err


def test_a_union_of_types_is_told_in_one_line():
    complaint = (
        'Parser key "a.b":\n  Does not validate against any of the Union subtypes\n'
        "  Subtypes: [<class 'int'>, typing.Literal['x', 'y'], <class 'NoneType'>]\n  Errors:\n    - ...\n"
        "  Given value type: <class 'str'>\n  Given value: z"
    )
    assert explain(complaint, []) == "a.b: expected one of x, y or int or null; got 'z'"


def test_clipping_that_lightning_refuses_is_one_clear_error(cli, mnist):
    mixed = ("--trainer.precision=bf16-mixed", "--trainer.gradient_clip_val=1", "--trainer.fast_dev_run=true")
    done = cli("fit", "--config", CONFIGS / "mnist.yaml", *mnist.options, *mixed)
    assert done.code == 1
    assert "fused" in done.err
    assert "Traceback" not in done.err
    more = ("--model.optimizer.fused=false",)
    assert cli("fit", "--config", CONFIGS / "mnist.yaml", *mnist.options, *mixed, *more).code == 0
