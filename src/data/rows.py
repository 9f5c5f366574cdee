"""Rows of numbers and their classes, made on the spot; your own data goes here."""

from typing import Any

import torch
from lightning.pytorch import LightningDataModule
from torch import Tensor

from src.data.loader import TensorLoader
from src.engine.errors import UserError

# Use fold_of in place of split_by_row for folds with equal classes or whole groups
from src.engine.data.splits import fold_of as fold_of
from src.engine.data.splits import split_by_row


def load_rows() -> tuple[Tensor, Tensor]:
    """Make rows around one centre for each class.

    Returns:
        x (N, 4) of any numbers and target (N,) int64. For a regression target is (N, 1) float32, about 1 in size.
    """
    # Your own data goes here: read a file, a table, a database. Whatever gives two tensors will do.
    generator = torch.Generator().manual_seed(0)
    target = torch.arange(600) % 3
    centres = 2 * torch.randn(3, 4, generator=generator)
    return centres[target] + torch.randn(600, 4, generator=generator), target


class RowsDataModule(LightningDataModule):
    """Three parts: about 3/5 for training, 1/5 for validation, 1/5 for the test.

    A seed and the values of a row decide its part: rows added later change no other row's part.
    Batches of x (B, 4) float32, scaled, and target (B,) int64.

    Args:
        batch_size: Rows per device in a step.
        split_seed: Decides the parts; apart from `seed_everything`, so that runs with different seeds are comparable.
        fold: The k-th of n folds validates, among the rows not for the test: [0, 4] (`python -m src repeat`).
    """

    def __init__(self, batch_size: int = 32, split_seed: int = 42, fold: tuple[int, int] | None = None) -> None:
        super().__init__()
        self.batch_size = batch_size
        self.split_seed = split_seed
        self.fold = fold
        self.learned: dict[str, Tensor] = {}

    # A method `prepare_data` is the place for a download: it runs once, on one process.

    def setup(self, stage: str) -> None:
        x, target = load_rows()
        if len(bad := x.isfinite().all(dim=1).logical_not().nonzero()):
            raise UserError(f"Row {bad[0, 0]} has a missing or infinite value. Fill it in or drop it in load_rows.")
        x = x.double()  # beside a large mean float32 has no digits left for the differences
        # Instead of x, anything that never changes may decide the part, such as the id of each row.
        self.train_rows, self.val_rows, self.test_rows = split_by_row(x, self.split_seed, self.fold)
        if not self.learned:  # a checkpoint brings its own
            seen = x[self.train_rows]  # never the others
            differs = seen.amax(dim=0) > seen.amin(dim=0)  # a constant column has nothing to divide by
            self.learned = {"mean": seen.mean(dim=0), "std": seen.std(dim=0, correction=0).where(differs, 1.0)}
        self.tensors = (x, target)

    # As the loaders' transform it is a part of what `python -m src export` writes.
    def scale(self, x: Tensor) -> Tensor:
        """Scale rows (B, 4) as the training rows ask for; return float32."""
        mean, std = (self.learned[name].to(x) for name in ("mean", "std"))
        return ((x - mean) / std).float()

    # The checkpoint keeps mean and std, so that later data is scaled like the training rows.
    def state_dict(self) -> dict[str, Any]:
        return self.learned

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.learned = state_dict

    # For data that fits in memory. For larger data return a torch DataLoader instead.
    def train_dataloader(self) -> TensorLoader:
        return TensorLoader(self.tensors, self.batch_size, rows=self.train_rows, transform=self.scale, shuffle=True)

    def val_dataloader(self) -> TensorLoader:
        return TensorLoader(self.tensors, self.batch_size, rows=self.val_rows, transform=self.scale)

    def test_dataloader(self) -> TensorLoader:
        return TensorLoader(self.tensors, self.batch_size, rows=self.test_rows, transform=self.scale)

    # Batches for `predict`: x and an id per row, here its index.
    def predict_dataloader(self) -> TensorLoader:
        x = self.tensors[0]
        return TensorLoader((x, torch.arange(len(x))), self.batch_size, rows=self.test_rows, transform=self.scale)

    # For a regression: [{"row": k, "value": y} for k, y in zip(batch[1].tolist(), outputs[:, 0].tolist())].
    def prediction_rows(self, outputs: Tensor, batch: tuple[Tensor, Tensor]) -> list[dict[str, Any]]:
        """Return what `predict` prints and writes: each row's likeliest class and its probability.

        Args:
            outputs: (B, 3) float32 probabilities.
            batch: Of x and the number of each row.
        """
        best = outputs.max(dim=1)
        rows = zip(batch[1].tolist(), best.indices.tolist(), best.values.tolist(), strict=True)
        return [{"row": row, "class": k, "probability": round(p, 4)} for row, k, p in rows]
