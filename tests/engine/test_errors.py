"""A bug keeps its traceback, with what went in."""

import dataclasses
import shlex
import traceback
from collections import UserDict, namedtuple

import numpy as np
import pytest
import torch
from lightning.pytorch import Callback
from lightning.pytorch.utilities import CombinedLoader

from src.engine.data.batches import describe
from tests import stopping
from tests.conftest import SMALL, run_process
from tests.stopping import config, fit
from tests.xor import XorDataModule

FIT = ("fit", "--config", SMALL)


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


class Data(XorDataModule):
    def setup(self, stage):
        raise OSError("bad row")


class Misused(XorDataModule):
    """Calls a method of Lightning with nonsense."""

    def val_dataloader(self):
        CombinedLoader([], mode="bad row")


class AfterValidation(Callback):
    def on_validation_epoch_end(self, trainer, module):
        raise RuntimeError("bad row")


NET = [f"--model.net={__name__}.Net", "--data.batch_size=3", "--trainer.num_sanity_val_steps=0"]
LINEAR = ["--model.net=torch.nn.Linear", "--model.net.in_features=3", "--model.net.out_features=1"]
LAST_BATCH = "net Net, loss BCEWithLogitsLoss; the batch was x (1, 2) float32"
FUNCTION = [f"--model.net={__name__}.function"]
MADE = f"from {__name__}.Net(as_torch=False, width=3)"
PLACES = {
    "constructor": ([f"--model.net={__name__}.Net", "--model.net.width=3"], MADE),
    "constructor in a function": (FUNCTION, None),
    "net": (NET, LAST_BATCH),
    "net, as torch does": ([*NET, "--model.net.as_torch=true"], LAST_BATCH),
    "a net that does not fit": (LINEAR, "net Linear, loss BCEWithLogitsLoss; the batch was x (4, 2) float32"),
    "data": ([f"--data={__name__}.Data"], None),
    "data, by Lightning": ([f"--data={__name__}.Misused"], None),
    "callback": ([f"--trainer.callbacks={__name__}.AfterValidation"], None),
}


@pytest.mark.parametrize(("options", "expected"), PLACES.values(), ids=PLACES.keys())
def test_an_error_of_a_users_own_code_keeps_its_traceback_with_the_batch_below(cli, options, expected):
    with pytest.raises((ValueError, KeyError, OSError, RuntimeError), match=r"bad row|shapes cannot") as raised:
        cli(*FIT, *options)
    notes = [note for note in getattr(raised.value, "__notes__", []) if not note.startswith("run ")]
    assert [note.partition(", target")[0] for note in notes] == ([expected] if expected else [])
    shown = "".join(traceback.format_exception(raised.value))
    assert "Given value" not in shown
    assert "jsonargparse" not in shown or options == FUNCTION


@pytest.mark.slow
def test_a_process_ends_with_one_line_or_with_the_traceback_and_the_shapes(tmp_path):
    done = run_process(*FIT, "--trainer.max_epoch=3", cwd=tmp_path)
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert not (tmp_path / "runs").exists()
    done = run_process(*FIT, *NET, cwd=tmp_path)
    assert done.returncode == 1
    assert __file__ in done.stderr
    *_, error, batch = [line for line in done.stderr.splitlines() if not line.startswith("run ")]
    assert (error, batch) == ("KeyError: 'bad row'", f"{LAST_BATCH}, target (1, 1) float32")


def break_down():
    raise RuntimeError("broke down")


def test_a_crash_names_the_folder_and_the_way_back(tmp_path):
    with pytest.raises(RuntimeError) as caught:
        fit(tmp_path, config(max_epochs=2) | {"experiment": "two words"}, ("on_train_batch_end", 17), break_down)
    (note,) = [note for note in caught.value.__notes__ if note.startswith("run ")]
    words = shlex.split(note.partition("python -m src ")[2])
    assert words == ["fit", "--ckpt_path", str(tmp_path / "runs/two words/version_0")]
    assert stopping.run_main(words) == 0


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
