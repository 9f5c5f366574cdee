"""A validation of photos with thousands of classes, with its pictures and without: what they cost in time and memory.

Measured on two busy cores (torch 2.14.1), 96 photos of 1200 x 1200 pixels in batches of 8, 3,000 classes: 5.4 s of CPU
and 1.2 GiB with the pictures, 3.0 s and 1.2 GiB without. Whole photos, a whole confusion matrix and a name for each of
its rows took 35 s and 2.4 GiB.
"""

from typing import Any

import torch
from lightning.pytorch import LightningDataModule, LightningModule, Trainer
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from src.callbacks.class_report import ClassReport
from src.callbacks.mistakes import Mistakes
from tests.benchmarks.stopwatch import stopwatch

NUM_PHOTOS, SIDE, NUM_CLASSES = 96, 1_200, 3_000


class Photos(Dataset[tuple[Tensor, int]]):
    """Noise, (3, SIDE, SIDE) float32 in [0, 1], and a class each."""

    def __len__(self) -> int:
        return NUM_PHOTOS

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return torch.rand(3, SIDE, SIDE, generator=torch.Generator().manual_seed(index)), index * 31 % NUM_CLASSES


class Data(LightningDataModule):
    """Photos whose classes have names."""

    class_names = tuple(f"class {number}" for number in range(NUM_CLASSES))

    def val_dataloader(self) -> DataLoader[tuple[Tensor, int]]:
        """Batches of 8."""
        return DataLoader(Photos(), batch_size=8)


class Colors(LightningModule):
    """Guesses a class by the mean of each color."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, NUM_CLASSES)

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> dict[str, Tensor]:
        """What the pictures look at."""
        return {"logits": self.layer(batch[0].mean(dim=(2, 3))), "target": batch[1]}


def validate(folder: str, drawn: bool) -> dict[str, Any]:
    """Validate once.

    Args:
        folder: Where the pictures go.
        drawn: Whether there are any.

    Returns:
        `seconds` and `peak_mib`.
    """
    import matplotlib.figure  # noqa: F401, part of neither figure

    torch.manual_seed(0)
    result: dict[str, Any] = {}
    trainer = Trainer(
        accelerator="cpu",
        logger=False,
        enable_progress_bar=False,
        default_root_dir=folder,
        callbacks=[ClassReport(), Mistakes()] if drawn else [],
    )
    with stopwatch(result):
        trainer.validate(Colors(), Data(), verbose=False)
    return result
