"""A user's mistake is one clear line with an exit code that is not 0; a bug keeps its traceback, with what went in."""

import dataclasses
import shlex
import sys
import traceback
from collections import UserDict, namedtuple
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import yaml
from lightning.pytorch import Callback
from lightning.pytorch.utilities import CombinedLoader
from torch.utils.data import DataLoader, TensorDataset

from src.data.loader import TensorLoader
from src.engine.data.batches import describe
from src.module import LitModule
from tests import stopping
from tests.conftest import CONFIGS, SMALL, run_process
from tests.stopping import config, fit

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
    "batches between checks": ([*FIT, "--finite.every_n_batches=0"], "every_n_batches=0 must be at least 1"),
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


def test_val_size_that_leaves_nothing_is_refused(cli, mnist):
    data = (f"--data.root={mnist.root}", f"--data.val_size={mnist.num_train}")
    done = cli("fit", "--config", CONFIGS / "mnist.yaml", *data)
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
def test_a_process_ends_with_one_line_or_with_the_traceback_and_the_shapes(tmp_path):
    (tmp_path / "own.py").write_text(OWN)
    done = run_process(*FIT, "--trainer.max_epoch=3", cwd=tmp_path)
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert not (tmp_path / "runs").exists()
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


def test_clipping_that_lightning_refuses_is_one_clear_error(cli, mnist):
    mixed = ("--trainer.precision=bf16-mixed", "--trainer.gradient_clip_val=1", "--trainer.fast_dev_run=true")
    done = cli("fit", "--config", CONFIGS / "mnist.yaml", *mnist.options, *mixed)
    assert done.code == 1
    assert "fused" in done.err
    assert "Traceback" not in done.err
    more = ("--model.optimizer.fused=false",)
    assert cli("fit", "--config", CONFIGS / "mnist.yaml", *mnist.options, *mixed, *more).code == 0


def late(tmp_path, made=None, **trainer):
    (tmp_path / "sums.yaml").write_text(yaml.safe_dump(config(**trainer) | (made or {})))
    return "fit", "--config", "sums.yaml"


@pytest.mark.parametrize(
    "options",
    [
        ["--trainer.val_check_interval", "100"],
        ["--trainer.limit_val_batches", "0.001"],
        ["--trainer.limit_train_batches", "0.001"],
        ["--trainer.val_check_interval", "0.5", "--trainer.check_val_every_n_epoch", "null"],
        ["--seed_everything", str(2**40)],
    ],
)
def test_an_option_that_is_rejected_late_is_one_line_that_names_it(options, cli, tmp_path):
    done = cli(*late(tmp_path), *options)
    assert done.code != 0
    assert "Traceback" not in done.err
    last = done.err.strip().splitlines()[-1]
    assert last.startswith("error: ")
    assert options[0].rpartition(".")[2] in last


@pytest.mark.parametrize("name", ["LearningRateMonitor", "DeviceStatsMonitor"])
def test_a_monitor_without_a_tracker_says_how_to_get_one_and_with_a_logger_runs(name, cli, tmp_path):
    monitor = {"class_path": f"lightning.pytorch.callbacks.{name}"}
    logger = {"class_path": "lightning.pytorch.loggers.CSVLogger", "init_args": {"save_dir": "logs"}}
    done = cli(*late(tmp_path, callbacks=(monitor,)))
    assert done.code != 0
    assert "--track.tensorboard true" in done.err
    assert "Traceback" not in done.err
    if name == "LearningRateMonitor":  # the other needs a package
        assert cli(*late(tmp_path, callbacks=(monitor,), logger=logger)).code == 0


class Broken(stopping.Sums):
    """Has a bug in a hook that Lightning calls."""

    def val_dataloader(self):
        raise ValueError("mine")


class Misused(stopping.Sums):
    """Calls a method of Lightning with nonsense."""

    def setup(self, stage):
        CombinedLoader([], mode="nonsense")


@pytest.mark.parametrize("kind", ["Broken", "Misused"])
def test_an_error_of_a_hook_of_ones_own_keeps_its_traceback(kind, cli, tmp_path):
    with pytest.raises(ValueError, match=r"mine|nonsense"):
        cli(*late(tmp_path, {"data": {"class_path": f"{__name__}.{kind}"}}))


def test_a_crash_names_the_folder_and_the_way_back(tmp_path):
    with pytest.raises(RuntimeError) as caught:
        fit(tmp_path, config() | {"experiment": "two words"}, ("on_train_batch_end", 17), break_down)
    (note,) = [note for note in caught.value.__notes__ if note.startswith("run ")]
    words = shlex.split(note.partition("python -m src ")[2])
    assert words == ["fit", "--ckpt_path", str(tmp_path / "runs/two words/version_0")]
    assert stopping.run_main(words) == 0


def break_down():
    raise RuntimeError("broke down")


class NoRows(stopping.Sums):
    def train_dataloader(self):
        return self._loader(torch.arange(0), shuffle=True)


class NoRowsOfTorch(stopping.Sums):
    def train_dataloader(self):
        return DataLoader(TensorDataset(torch.zeros(0, 4), torch.zeros(0, 1)), batch_size=4)


@pytest.mark.parametrize("data", ["NoRows", "NoRowsOfTorch"])
def test_data_without_a_row_is_one_line(data, cli, tmp_path):
    done = cli(*late(tmp_path, {"data": {"class_path": f"{__name__}.{data}"}}))
    assert done.err.count("error: There is no sample to load") == 1
    assert "Traceback" not in done.err


class Picky(torch.nn.Linear):
    """Fails in its own forward, on a batch of fewer than two rows."""

    def __init__(self) -> None:
        super().__init__(2, 1)

    def forward(self, x):
        if len(x) < 2:
            raise KeyError("too few")
        return super().forward(x)


class AsksForALogger(LitModule):
    """Was written for a trainer with a logger."""

    def training_step(self, batch, batch_idx):
        self.logger.experiment.add_scalar("x", 1.0)


class BetweenSteps(Callback):
    def on_train_epoch_end(self, trainer, module):
        raise RuntimeError("between two steps")


class AfterValidation(Callback):
    def on_validation_epoch_end(self, trainer, module):
        raise RuntimeError("between two steps")


NOTES = {
    "a net that does not fit the data": (
        ["--model.net=torch.nn.Linear", "--model.net.in_features=3", "--model.net.out_features=1"],
        ["net Linear, loss BCEWithLogitsLoss; the batch was x (4, 2) float32, target (4, 1) float32"],
    ),
    "the last smaller batch": (
        [f"--model.net={__name__}.Picky", "--data.batch_size=3", "--trainer.num_sanity_val_steps=0"],
        ["net Picky, loss BCEWithLogitsLoss; the batch was x (1, 2) float32, target (1, 1) float32"],
    ),
    "a module that asks for a logger": ([f"--model={__name__}.AsksForALogger"], ["self.logger is None: no tracker"]),
    "an error between two steps": ([f"--trainer.callbacks={__name__}.BetweenSteps"], []),
    "an error after a validation": ([f"--trainer.callbacks={__name__}.AfterValidation"], []),
}


@pytest.mark.parametrize(("options", "expected"), NOTES.values(), ids=NOTES.keys())
def test_below_the_traceback_stands_what_went_in(options, expected, cli):
    with pytest.raises((RuntimeError, KeyError, AttributeError)) as raised:
        cli(*FIT, *options)
    notes = [note for note in getattr(raised.value, "__notes__", []) if not note.startswith("run ")]
    if expected:
        assert [note for note in notes if note.startswith(expected[0])]
    else:
        assert notes == []


def test_batches_of_any_kind_are_described():
    batch = {"ids": torch.zeros(2, 3, dtype=torch.int64), "names": ["a", "b", "c"]}
    assert describe(batch) == "ids (2, 3) int64, names [3 x str]"
    assert describe((1,)) == "int"
    assert describe((torch.zeros(2), {})) == "x (2,) float32, target an empty dict"
    assert describe([["a", "b"], [1, 2, 3]]) == "[str, str], [3 x int]"
    assert describe(np.zeros((2, 3))) == "(2, 3) float64"


def test_whatever_has_names_is_described_with_them():
    ids = torch.zeros(2, 3, dtype=torch.int64)
    said = "ids (2, 3) int64, more [a (2, 3) int64, b str]"
    more = UserDict(a=ids, b="text")  # as the batches of tokenizers are
    assert describe(UserDict(ids=ids, more=more)) == said
    assert describe(namedtuple("Batch", ["ids", "more"])(ids, more)) == said
    assert describe(dataclasses.make_dataclass("Batch", ["ids", "more"])(ids, more)) == said
    assert describe(SimpleNamespace(ids=ids, more=more)) == said
    assert describe((more, ids)) == "x [a (2, 3) int64, b str], target (2, 3) int64"
    assert describe([ids, ids, ids, [ids, {"boxes": [ids] * 3}]]) == (
        "3 x (2, 3) int64, [(2, 3) int64, [boxes [3 x (2, 3) int64]]]"
    )


def test_a_batch_without_a_target_is_described_too(cli, monkeypatch):
    unlabelled = TensorLoader((torch.zeros(4, 2),), 4)
    monkeypatch.setattr("tests.xor.XorDataModule.train_dataloader", lambda module: unlabelled)
    done = cli(*FIT, "--trainer.num_sanity_val_steps=0")
    assert "no target for the loss. It was (4, 2) float32. Say in LitModule.step" in done.err
