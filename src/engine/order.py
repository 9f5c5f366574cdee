"""The order of the data is a function of (seed, epoch): who trains on what, and where a resumed run goes on."""

import random
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import torch
from lightning.pytorch.utilities import CombinedLoader
from torch import Tensor

from src.engine.errors import UserError

MASK = 2**64 - 1


def mix(*numbers: int) -> int:
    """Numbers to one of 32 bits, in which each of them counts: neighbours give seeds that have nothing in common.

    The finaliser of SplitMix64 (Steele, Lea, Flood 2014), a microsecond a number.
    """
    z = 0
    for number in numbers:
        z = (z + number + 0x9E3779B97F4A7C15) & MASK
        z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & MASK
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & MASK
        z ^= z >> 31
    return z & 0xFFFFFFFF


def permutation(length: int, seed: int, number: int) -> Tensor:
    """(length,) int64, a new order for each (seed, number)."""
    # torch keeps 32 bits of a generator's seed and neighbours would share orders: mix both numbers first.
    mixed = random.Random(f"{seed}/{number}").getrandbits(32)
    return torch.randperm(length, generator=torch.Generator().manual_seed(mixed))


def cut(num_rows: int, size: int, world_size: int) -> list[tuple[int, int]]:
    """Where the global batches of `size` rows begin and end.

    The last one is smaller; a rest of fewer than `world_size` rows, which would leave a process without work, joins the
    batch before it.
    """
    if num_rows == 0:
        return []
    starts = list(range(0, num_rows, size))
    if len(starts) > 1 and num_rows - starts[-1] < world_size:
        starts.pop()
    return list(zip(starts, [*starts[1:], num_rows], strict=True))


class Position:
    """What a loader knows of its place: the epoch, and how many batches of it were handed out.

    Of each global batch rank r of W takes each W-th row, from the r-th on. So W processes train like one, each row
    comes once, and a position is the same for all.
    """

    def __init__(self, seed: int | None, rank: int | None = None, world_size: int | None = None) -> None:
        self._own_seed = seed is not None
        self._own_share = rank is not None
        self.seed = torch.initial_seed() if seed is None else seed
        self.rank = rank or 0
        self.world_size = world_size or 1
        self.epoch = 0
        self.batch = 0
        # Of several loaders a short one starts again before the epoch is over.
        self.cycle = -1
        self._resumed = False
        self._before = (0, 0)
        self._finished = False
        # Whether Lightning fetches a batch before it trains on the one in hand: it does where a length is unknown.
        self.looks_ahead: Callable[[], bool] = lambda: False
        self._weights = (1.0, 1.0)  # before the last batch and of it
        self.share(self.rank, self.world_size)

    def share(self, rank: int, world_size: int) -> None:
        """Take a share of each batch, unless one was given to the constructor."""
        if not self._own_share:
            self.rank, self.world_size = rank, world_size
        if not self._own_seed and self.world_size > 1 and torch.distributed.is_initialized():
            shared = [self.seed]  # `--seed_everything false` gives each process a seed of its own
            torch.distributed.broadcast_object_list(shared)
            self.seed = shared[0]

    def refuse_fewer_rows_than_processes(self, num_rows: int) -> None:
        """Each process needs a row.

        Raises:
            UserError: If there are too few.
        """
        if num_rows == 0:
            raise UserError(
                "There is no sample to load: the data set, or the part of it that a loader was given, is empty."
            )
        if num_rows < self.world_size:
            raise UserError(
                f"{num_rows} samples cannot be shared by {self.world_size} processes: each needs at least one. "
                f"Set --trainer.devices to {num_rows} or fewer."
            )

    @property
    def batch_sampler(self) -> Any:
        """Where Lightning looks for `set_epoch`."""
        # Made when asked for: one that refers to itself would leave its workers to the garbage collector, which takes
        # twenty seconds to end them.
        return SimpleNamespace(sampler=self)

    @property
    def behind(self) -> bool:
        """Whether the batch in hand is the one before the last that was handed out."""
        return self.looks_ahead() and not self._finished

    @property
    def weight(self) -> float:
        """Of the batch in hand.

        Mean gradients are averaged over the ranks, each with the same say. Where the rows of a batch do not split
        evenly, a rank's loss times its weight makes that average the mean over the rows.
        """
        return self._weights[0 if self.behind else 1]

    @property
    def number(self) -> int:
        """Of the order: the epoch's, and another for each further cycle in it."""
        return self.epoch if self.cycle < 1 else 2**32 + mix(self.epoch, self.cycle)

    def begin(self) -> int:
        """Start to iterate; returns the first batch to hand out."""
        # Lightning leaves an epoch's iterator where it stops and never exhausts it, so a new epoch begins here.
        self.batch, self.cycle = (self.batch, self.cycle) if self._resumed else (0, self.cycle + 1)
        self._resumed = self._finished = False
        self._before = (self.batch, self.cycle)
        return self.batch

    def hand_out(self, num_rows: int, of: int) -> None:
        """Count a batch.

        Args:
            num_rows: Of this process.
            of: Rows of the global batch.
        """
        self._before = (self.batch, self.cycle)
        self.batch += 1
        self._weights = (self._weights[1], num_rows * self.world_size / of)

    def finish(self) -> None:
        """There is no further batch."""
        self._finished = True

    def set_epoch(self, epoch: int) -> None:
        """Choose the order; Lightning calls it before each epoch."""
        # A position saved in another epoch says nothing about this one.
        self._resumed = self._resumed and epoch == self.epoch
        if not self._resumed:
            self.cycle = -1
        self.epoch = epoch

    def state_dict(self) -> dict[str, Any]:
        """The position counts the batches that were trained on; with it stands what gives the order."""
        batch, cycle = self._before if self.behind else (self.batch, self.cycle)
        place = {"epoch": self.epoch, "batch": batch, "cycle": max(cycle, 0), "seed": self.seed, "between_epochs": None}
        return place | self.makes_the_order()

    def makes_the_order(self) -> dict[str, int]:
        """What has to be the same for a position amid an epoch to mean anything."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on at a saved position, in the order it belongs to.

        Raises:
            UserError: If the position is amid an epoch whose batches were others: rows would be lost or repeated.
        """
        if "batch" not in state:  # between two epochs
            return
        self.epoch, self.batch, self.seed = state["epoch"], state["batch"], state["seed"]
        self.cycle = max(state.get("cycle", 0), 0)
        self._resumed = True
        now = self.makes_the_order()
        was = {name: state.get(name) for name in now}
        if 0 < self.batch != state.get("num_batches") and was != now:
            raise UserError(
                f"The checkpoint is amid an epoch of {was['num_batches']} batches of {was['global_batch_size']}; "
                f"now there are {now['num_batches']} of {now['global_batch_size']}. Keep --data.batch_size times the "
                "number of processes, or resume from a checkpoint between two epochs."
            )


def leaves(loaders: Any) -> Iterator[Any]:
    """Each loader of a collection of them."""
    if isinstance(loaders, CombinedLoader):
        yield from loaders.flattened
    elif isinstance(loaders, dict | list | tuple):
        for each in loaders.values() if isinstance(loaders, dict) else loaders:
            yield from leaves(each)
    else:
        yield loaders
