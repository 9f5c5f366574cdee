"""One small task whose data comes in each form that a loader can have, or with a mistake in it."""

import random
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from lightning.pytorch import LightningDataModule
from lightning.pytorch.utilities import CombinedLoader
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset, Sampler, WeightedRandomSampler, get_worker_info

from src.module import LitModule

NUM_ROWS = 47  # neither 2 nor 3 nor a batch divides it
GLOBAL_BATCH = 4
X = torch.randn(NUM_ROWS, 4, generator=torch.Generator().manual_seed(0))


def noise() -> Tensor:
    """(4,) numbers, for which each of the three generators draws."""
    return 0.1 * (torch.rand(4) + float(np.random.normal()) + random.random())


def augmented(row: int) -> tuple[Tensor, Tensor]:
    """Four noisy numbers, and the sum of them without noise."""
    return X[row] + noise(), X[row].sum(dim=0, keepdim=True)


class Rows(Dataset[tuple[Tensor, Tensor]]):
    def __init__(self, num_rows: int = NUM_ROWS) -> None:
        self.num_rows = num_rows

    def __len__(self) -> int:
        return self.num_rows

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        return augmented(index)


class BrokenRows(Rows):
    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        return fail() if index == 4 else super().__getitem__(index)


def fail(*_: Any) -> Any:
    raise KeyError("the user's own mistake")


class Own(DataLoader[Any]):
    def __iter__(self) -> Iterator[Any]:
        for x, target in super().__iter__():
            yield x, 2 * target


class Buckets(Sampler[list[int]]):
    """Batches of neighbours, shuffled within and among themselves; draws from all three generators."""

    def __init__(self, length: int = NUM_ROWS, size: int = GLOBAL_BATCH) -> None:
        self.length, self.size = length, size

    def __len__(self) -> int:
        return -(-self.length // self.size)

    def __iter__(self) -> Iterator[list[int]]:
        rows = torch.arange(self.length).roll(int(torch.randint(0, self.length, ()))).tolist()
        np.random.shuffle(rows)
        batches = [rows[k : k + self.size] for k in range(0, self.length, self.size)]
        random.shuffle(batches)
        yield from batches


def share() -> tuple[int, int]:
    """Which part of a stream is whose: of rank and worker."""
    together = torch.distributed.is_initialized()
    rank, world_size = (torch.distributed.get_rank(), torch.distributed.get_world_size()) if together else (0, 1)
    worker = get_worker_info()
    return (rank * worker.num_workers + worker.id, world_size * worker.num_workers) if worker else (rank, world_size)


class Stream(IterableDataset[tuple[Tensor, Tensor]]):
    """The rows of this process in a random order, augmented."""

    num_rows = NUM_ROWS - 1

    def rows(self) -> list[int]:
        mine, of = share()
        rows = torch.arange(self.num_rows)[mine::of]
        order: list[int] = rows[torch.randperm(len(rows))].tolist()
        return order

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        yield from map(augmented, self.rows())


class ShortStream(Stream):
    num_rows = 12


class StatefulStream(Stream):
    def __init__(self) -> None:
        self.waiting: list[int] = []

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        self.waiting = self.waiting or self.rows()
        while self.waiting:
            yield augmented(self.waiting.pop(0))

    def state_dict(self) -> dict[str, Any]:
        return {"waiting": self.waiting}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.waiting = list(state["waiting"])


def plain(size: int, num_rows: int = NUM_ROWS, **options: Any) -> DataLoader[Any]:
    return DataLoader(Rows(num_rows), batch_size=size, shuffle=True, **options)


class Counts(Sampler[int]):
    """Has a generator of its own, and knows how often it was asked."""

    def __init__(self) -> None:
        self.generator_of_numpy, self.asked = np.random.default_rng(0), 0

    def __len__(self) -> int:
        return NUM_ROWS

    def __iter__(self) -> Iterator[int]:
        self.asked += 1
        return iter(np.roll(self.generator_of_numpy.permutation(NUM_ROWS), self.asked).tolist())


def streams(size: int) -> list[DataLoader[Any]]:
    return [DataLoader(StatefulStream(), size), DataLoader(Stream(), size)]


def weighted(num_rows: int = NUM_ROWS) -> WeightedRandomSampler:
    return WeightedRandomSampler([float(k % 3) for k in range(num_rows)], num_rows)


FORMS: dict[str, Callable[[int], Any]] = {
    "plain": plain,
    "subclass": lambda size: Own(Rows(), size, True, num_workers=1),
    "two-workers": lambda size: plain(size, num_workers=2),
    "persistent": lambda size: plain(size, num_workers=2, persistent_workers=True, prefetch_factor=3),
    "weighted": lambda size: DataLoader(Rows(), size, sampler=weighted()),
    "buckets": lambda size: DataLoader(Rows(), batch_sampler=Buckets()),
    "stream": lambda size: DataLoader(Stream(), size),
    "stream-with-state": lambda size: DataLoader(StatefulStream(), size),
    "stream-with-workers": lambda size: DataLoader(Stream(), size, num_workers=2, persistent_workers=True),
    "dict": lambda size: {
        "a": plain(size, num_workers=1),
        "b": DataLoader(Rows(20), size, sampler=weighted(20)),
        "c": DataLoader(Rows(), batch_sampler=Buckets()),
    },
    "loader-and-streams": lambda size: [plain(size), *streams(size)],
    "short-loader-and-streams": lambda size: [plain(size, 20), *streams(size)],
    "combined": lambda size: CombinedLoader(
        [DataLoader(Stream(), size), DataLoader(ShortStream(), size)], "max_size_cycle"
    ),
    "counts": lambda size: DataLoader(Rows(), size, sampler=Counts()),
    # Seven items, which are batches of one row to seven.
    "items": lambda size: DataLoader([next(iter(plain(k, k))) for k in range(1, 8)], None, True),
    "broken-item": lambda size: DataLoader(BrokenRows(), size, num_workers=2),
    "broken-collate": lambda size: plain(size, collate_fn=fail),
    "broken-worker": lambda size: plain(size, num_workers=2, worker_init_fn=fail),
}


class Task(LightningDataModule):
    """Rows in a form for training, test and predict, and 15 rows for validation; `batch_size` is that of a process."""

    def __init__(self, form: str, batch_size: int = GLOBAL_BATCH) -> None:
        super().__init__()
        self.form, self.batch_size = form, batch_size

    def train_dataloader(self) -> Any:
        return FORMS[self.form](self.batch_size)

    test_dataloader = predict_dataloader = train_dataloader

    def val_dataloader(self) -> Any:
        return DataLoader(Rows(15), self.batch_size)


class Several(LitModule):
    """Trains on the batches of several loaders together."""

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        batches = list(batch.values()) if isinstance(batch, dict) else batch
        if not isinstance(batches[0], Tensor):
            batch = tuple(torch.cat(parts) for parts in zip(*batches, strict=True))
        return super().training_step(batch, batch_idx)
