"""Modules whose `predict_step` returns each form of output, over data whose rows know their number."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningDataModule, LightningModule, Trainer
from lightning.pytorch.callbacks import BasePredictionWriter
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset, SubsetRandomSampler, TensorDataset

from src.data.loader import TensorLoader

NUM_ROWS = 11  # neither 2 nor a batch of 4 divides it


def boxes(x: Tensor) -> list[Tensor]:
    """Of sample k there are k % 3, each of 4 numbers."""
    return [torch.full((int(k) % 3, 4), float(k)) for k in x]


def image(x: Tensor) -> Tensor:
    """(B,) to (B, 3, 32, 32): a large output."""
    return x.view(-1, 1, 1, 1) + torch.arange(3 * 32 * 32).view(3, 32, 32) / 4096


FORMS: dict[str, Callable[[Tensor], Any]] = {
    "scalar": lambda x: x / 3,
    "dict": lambda x: {"label": x.long(), "name": [f"row {k:.0f}" for k in x], "pair": torch.stack([x, x / 3], dim=1)},
    "twice": lambda x: {"pair": torch.stack([x, x], dim=1), "pair_0": x},
    "ragged": boxes,
    "detections": lambda x: [{"boxes": b, "label": int(k)} for k, b in zip(x, boxes(x), strict=True)],
    "image": image,
    # Padded within a batch: the width differs from batch to batch.
    "padded": lambda x: x.view(-1, 1).expand(-1, int(x.max()) + 1),
}


class Predicts(LightningModule):
    """Returns a form of output for rows that are numbers.

    Args:
        form: A key of `FORMS`.
    """

    def __init__(self, form: str = "scalar") -> None:
        super().__init__()
        self.form = form
        self.weight = torch.nn.Parameter(torch.zeros(1))

    def predict_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> Any:
        x = batch if isinstance(batch, Tensor) else batch[0]
        return FORMS[self.form](x)


class Numbers(Dataset[Tensor]):
    def __init__(self, first: int, num_rows: int) -> None:
        self.first = first
        self.num_rows = num_rows

    def __len__(self) -> int:
        return self.num_rows

    def __getitem__(self, index: int) -> Tensor:
        return torch.tensor(float(self.first + index))


class Stream(IterableDataset[Tensor]):
    def __iter__(self) -> Iterator[Tensor]:
        return (torch.tensor(float(k)) for k in range(NUM_ROWS))


def by_remainder(n: int, size: int) -> list[list[int]]:
    """Batches of buckets: rows with one remainder by 3, the largest first."""
    buckets = [list(range(k, n, 3))[::-1] for k in range(3)]
    return [bucket[k : k + size] for bucket in buckets for k in range(0, len(bucket), size)]


class Batches(Dataset[Tensor]):
    """Items that are batches."""

    def __len__(self) -> int:
        return 3

    def __getitem__(self, index: int) -> Tensor:
        return torch.arange(float(4 * index), 4 * index + 4)


LOADERS: dict[str, Callable[[int, int], Any]] = {
    "loader": lambda n, size: DataLoader(Numbers(0, n), size),
    "tensors": lambda n, size: TensorLoader((torch.arange(float(n)), torch.arange(n)), size),
    "two": lambda n, size: {"a": DataLoader(Numbers(0, n), size), "b": DataLoader(Numbers(100, 3), size)},
    "stream": lambda n, size: DataLoader(Stream(), size),
    "shuffled-set": lambda n, size: DataLoader(TensorDataset(torch.arange(float(n))), size, shuffle=True),
    "shuffled-tensors": lambda n, size: TensorLoader((torch.arange(float(n)), torch.arange(n)), size, shuffle=True),
    "subset": lambda n, size: DataLoader(Numbers(0, n), size, sampler=SubsetRandomSampler(range(1, n, 2))),
    "again": lambda n, size: DataLoader(Numbers(0, n), size, sampler=[3, 1, 3, 0, 7, 1]),
    "buckets": lambda n, size: DataLoader(Numbers(0, n), batch_sampler=by_remainder(n, size)),
    "batches": lambda n, size: DataLoader(Batches(), batch_size=None, sampler=[2, 0, 1]),
    "two-shuffled": lambda n, size: [DataLoader(Numbers(k, n), size, shuffle=True) for k in (0, 100)],
}


class Data(LightningDataModule):
    """Rows 0, 1, 2, ...

    Args:
        loader: A key of `LOADERS`.
        num_rows: How many.
        batch_size: Of a process.
    """

    def __init__(self, loader: str = "loader", num_rows: int = NUM_ROWS, batch_size: int = 4) -> None:
        super().__init__()
        self.loader = loader
        self.num_rows = num_rows
        self.batch_size = batch_size

    def predict_dataloader(self) -> Any:
        return LOADERS[self.loader](self.num_rows, self.batch_size)


class Named(Data):
    """Rows that name what lies in the batch; `harm` spoils them."""

    def __init__(self, harm: str = "", loader: str = "tensors", batch_size: int = 4) -> None:
        super().__init__(loader, batch_size=batch_size)
        self.harm = harm

    def prediction_rows(self, outputs: Tensor, batch: Any) -> Any:
        pairs = zip(batch[1].tolist(), outputs.tolist(), strict=True)
        rows = [{"name": f"row {k}", "third": round(value, 3)} for k, value in pairs]
        if self.harm == "later" and batch[1][0] > 0:
            rows = [{"name": ""} for _ in rows]
        return rows[:-1] if self.harm == "short" else rows


class Writer(BasePredictionWriter):
    """Writes a file for each batch."""

    def __init__(self) -> None:
        super().__init__("batch")

    def write_on_batch_end(self, trainer: Trainer, module: LightningModule, prediction: Any, *rest: Any) -> None:
        torch.save(prediction, Path(trainer.default_root_dir, f"{rest[2]}.pt"))
