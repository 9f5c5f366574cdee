"""The training step of src/module.py."""

import random
from pathlib import Path

import numpy as np
import pytest
import torch
from lightning.pytorch import Trainer
from torch import nn
from torchmetrics.classification import BinaryAccuracy

from src.data.loader import TensorLoader
from src.module import LitModule
from tests.processes import XOR, launch, processes


class Same(nn.Module):
    """Returns its input, plus a parameter of 0 that an optimizer can hold."""

    def __init__(self):
        super().__init__()
        self.zero = nn.Parameter(torch.zeros(()))

    def forward(self, x):
        return x + self.zero


def sgd(parameters):
    return torch.optim.SGD(parameters, lr=0.0)


def trainer(**options):
    quiet = dict.fromkeys(("logger", "enable_progress_bar", "enable_checkpointing", "enable_model_summary"), False)
    return Trainer(accelerator="cpu", devices=1, **quiet | options)


def test_accuracy_of_logits_between_0_and_1():
    # As probabilities 0.2 and 0.4 would be a "no"; as logits they are a "yes".
    logits, target = torch.tensor([[0.2], [0.4], [0.9], [0.6]]), torch.tensor([[1.0], [1.0], [1.0], [0.0]])
    module = LitModule(Same(), nn.BCEWithLogitsLoss(), sgd, {"acc": BinaryAccuracy()})
    (result,) = trainer().test(module, TensorLoader((logits, target), 2), verbose=False)
    assert result["test/acc"] == 0.75


def test_mean_of_half_precision_is_exact():
    x = torch.full((1_000, 1), 2.0, dtype=torch.bfloat16)
    module = LitModule(Same().bfloat16(), nn.MSELoss(), sgd)
    (result,) = trainer().test(module, TensorLoader((x, x + 3), 1), verbose=False)
    assert result["test/loss"] == 9.0


def test_predict_takes_x_with_or_without_target():
    module, x = LitModule(Same(), nn.MSELoss(), sgd), torch.arange(6.0).reshape(3, 2)
    for batch in (x, (x,), (x, torch.zeros(3))):
        assert torch.equal(module.predict_step(batch, 0), x)


class Draws(nn.Linear):
    """Writes what it draws in training."""

    def __init__(self):
        super().__init__(2, 1)

    def forward(self, x):
        if self.training:
            numbers = torch.rand(()).item(), np.random.random(), random.random()
            Path(f"drew-{torch.distributed.get_rank()}").write_text(str(numbers))
        return super().forward(x)


@pytest.mark.slow
def test_each_process_draws_numbers_of_its_own(tmp_path):
    launch("fit", *XOR, *processes(2), f"--model.net={__name__}.Draws", "--trainer.max_steps=1", cwd=tmp_path)
    first, second = ((tmp_path / f"drew-{rank}").read_text().strip("()").split(", ") for rank in range(2))
    assert not any(a == b for a, b in zip(first, second, strict=True))
