"""An error from within a step says at its end what went in."""

import traceback

import pytest
import torch

from src.engine.errors import describe
from src.cli import main
from src.data.loader import TensorLoader
from tests.conftest import SMALL
from tests.processes import fail


def test_a_net_that_does_not_fit_the_data_is_told_below_the_traceback(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(RuntimeError) as raised:
        main(["fit", "--config", str(SMALL), '--model.net={"class_path": "torch.nn.Linear", "init_args": '
              '{"in_features": 3, "out_features": 1}}'])  # fmt: skip
    last = traceback.format_exception(raised.value)[-1].splitlines()[-1]
    assert last == "net Linear, loss BCEWithLogitsLoss; a batch was x (4, 2) float32, target (4, 1) float32"


def test_an_error_of_another_kind_is_left_as_it_is(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(RuntimeError) as raised:
        main(["fit", "--config", str(SMALL), *fail(rank=0, step=2)])
    assert not hasattr(raised.value, "__notes__")


def test_other_batches_are_described_too():
    assert describe({"a": 1}) == "dict"
    assert describe((1,)) == "int"


def test_a_batch_without_a_target_is_told_too(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    unlabelled = TensorLoader((torch.zeros(4, 2),), 4)
    monkeypatch.setattr("tests.xor.XorDataModule.train_dataloader", lambda module: unlabelled)
    with pytest.raises(ValueError, match="unpack") as raised:
        main(["fit", "--config", str(SMALL), "--trainer.num_sanity_val_steps=0"])
    assert raised.value.__notes__ == ["net XorMLP, loss BCEWithLogitsLoss; a batch was (4, 2) float32"]
