"""An error from within a step says at its end what went in."""

import dataclasses
import traceback
from collections import UserDict, namedtuple
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from lightning.pytorch import Callback

from src.cli import main
from src.data.loader import TensorLoader
from src.engine.data.batches import describe
from src.module import LitModule
from tests.conftest import SMALL


def test_a_net_that_does_not_fit_the_data_is_told_below_the_traceback(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(RuntimeError) as raised:
        main(["fit", "--config", str(SMALL), '--model.net={"class_path": "torch.nn.Linear", "init_args": '
              '{"in_features": 3, "out_features": 1}}'])  # fmt: skip
    last = traceback.format_exception(raised.value)[-1].splitlines()[-1]
    assert last == "net Linear, loss BCEWithLogitsLoss; the batch was x (4, 2) float32, target (4, 1) float32"


class Picky(torch.nn.Linear):
    """Fails in its own forward, on a batch of fewer than two rows."""

    def __init__(self) -> None:
        super().__init__(2, 1)

    def forward(self, x):
        if len(x) < 2:
            raise KeyError("too few")
        return super().forward(x)


def test_the_batch_told_is_the_last_smaller_one_also_where_a_users_forward_fails(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(KeyError) as raised:
        main(["fit", "--config", str(SMALL), "--data.batch_size=3", "--model.net=tests.engine.test_errors_step.Picky",
              "--trainer.num_sanity_val_steps=0"])  # fmt: skip
    assert raised.value.__notes__[-1] == (
        "net Picky, loss BCEWithLogitsLoss; the batch was x (1, 2) float32, target (1, 1) float32"
    )


class AsksForALogger(LitModule):
    """Was written for a trainer with a logger."""

    def training_step(self, batch, batch_idx):
        self.logger.experiment.add_scalar("x", 1.0)


def test_a_module_that_asks_for_a_logger_is_told_how_to_get_one(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(AttributeError) as raised:
        main(["fit", "--config", str(SMALL), f"--model={__name__}.AsksForALogger"])
    assert any(note.startswith("self.logger is None: no tracker is on.") for note in raised.value.__notes__)


class BetweenSteps(Callback):
    def on_train_epoch_end(self, trainer, module):
        raise RuntimeError("between two steps")


def test_an_error_between_two_steps_tells_of_no_batch(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(RuntimeError) as raised:
        main(["fit", "--config", str(SMALL), "--trainer.callbacks=tests.engine.test_errors_step.BetweenSteps"])
    assert not any("the batch was" in note for note in raised.value.__notes__)


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


def test_a_batch_without_a_target_is_told_too(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    unlabelled = TensorLoader((torch.zeros(4, 2),), 4)
    monkeypatch.setattr("tests.xor.XorDataModule.train_dataloader", lambda module: unlabelled)
    with pytest.raises(SystemExit, match=r"no target for the loss. It was \(4, 2\) float32. Say in LitModule.step"):
        main(["fit", "--config", str(SMALL), "--trainer.num_sanity_val_steps=0"])
