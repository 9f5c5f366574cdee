"""The four rows of XOR."""

from typing import Any

import torch
from lightning.pytorch import LightningDataModule
from torch import Tensor

from src.data.loader import TensorLoader

INPUTS = torch.tensor([[0.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 1.0]])  # (4, 2)
TARGETS = torch.tensor([[0.0], [1.0], [1.0], [0.0]])  # (4, 1)


class XorDataModule(LightningDataModule):
    """All four rows, for training and for every other stage: batches of x (B, 2) and target (B, 1), both float32.

    Args:
        batch_size: Rows per device in a step.
        passes: Passes over the rows in one training epoch. 8 epochs of 250 steps cost an eighth of Lightning's time for
            2,000 epochs of one step.
    """

    def __init__(self, batch_size: int = 4, passes: int = 250) -> None:
        super().__init__()
        self.batch_size = batch_size
        self.passes = passes

    def train_dataloader(self) -> TensorLoader:
        return TensorLoader((INPUTS, TARGETS), self.batch_size, passes=self.passes)

    def val_dataloader(self) -> TensorLoader:
        return TensorLoader((INPUTS, TARGETS), self.batch_size)

    test_dataloader = predict_dataloader = val_dataloader

    def prediction_rows(self, outputs: Tensor, batch: tuple[Tensor, Tensor]) -> list[dict[str, Any]]:
        """Return what `predict` prints and writes, a dict per row of XOR.

        Args:
            outputs: (B, 1) float32, the probability of a 1.
            batch: Of x and target.
        """
        return [
            {"input": f"{x[0]:.0f} {x[1]:.0f}", "output": round(score.item(), 3), "truth": int(target.item())}
            for x, score, target in zip(batch[0], outputs, batch[1], strict=True)
        ]
