"""The order of the data is a function of (seed, epoch): who trains on what, and where a resumed run goes on."""

import functools
import random
import zlib
from collections.abc import Iterator, Sequence
from types import SimpleNamespace
from typing import Any

import torch
from lightning.pytorch import Trainer
from lightning.pytorch.utilities import CombinedLoader
from torch import Tensor

from src.engine.errors import UserError
from src.engine.lightning_fixes.loops import FitProgress

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


@functools.lru_cache(maxsize=32)
def cut(num_rows: int, size: int, at_least: int = 1) -> tuple[tuple[int, int], ...]:
    """Return where the global batches of `size` rows begin and end.

    The last one is smaller. If it has fewer rows than `at_least`, it takes some of the batch before it.
    """
    starts = list(range(0, num_rows, size))
    if len(starts) > 1:
        starts[-1] = min(starts[-1], num_rows - at_least)
    return tuple(zip(starts, [*starts[1:], num_rows], strict=True)) if starts else ()


class RunSeed:
    """Holds the seed from which the order of a run's data and every draw for it follow.

    A checkpoint carries it: a resumed run, or a later test, keeps it, whatever its own process was seeded with.

    Args:
        trainer: Of the run.
        own: The seed of this process.
    """

    def __init__(self, trainer: Trainer, own: int) -> None:
        self._trainer = trainer
        self.own = own
        self._value: int | None = None

    @property
    def value(self) -> int:
        """The seed, the same on all processes, which ask for it together the first time."""
        if self._value is None:
            if self._trainer.world_size > 1 and not torch.distributed.is_initialized():
                return self.own
            self._value = int(self._trainer.strategy.broadcast(self.own))
        return self._value

    def save(self, checkpoint: dict[str, Any]) -> None:
        """Put the seed into a checkpoint."""
        checkpoint["order_seed"] = self.value

    def load(self, checkpoint: dict[str, Any]) -> None:
        """Take the seed from a checkpoint."""
        self._value = checkpoint.get("order_seed", self._value)


class RunLoader:
    """Is a loader that knows the run: the seed, the stage, the epoch, and which process this is.

    In training the order, and all that is drawn, is a function of (seed, epoch). In evaluation it is one of (seed,
    stage): the same in each epoch and in each run.
    """

    def __init__(self, seed: int | None, rank: int | None = None, world_size: int | None = None) -> None:
        self._own_seed = seed
        self._own_share = rank is not None
        self.rank = rank or 0
        self.world_size = world_size or 1
        shared = [torch.initial_seed()]
        if self.world_size > 1 and torch.distributed.is_initialized():  # without a run each process has its own
            torch.distributed.broadcast_object_list(shared)
        self._process_seed = shared[0]
        self.epoch = 0
        # Of several loaders a short one starts again before the epoch is over.
        self.cycle = 0
        self.stage = ""  # none, without a run
        self._number = 0
        self._run_seed: RunSeed | None = None
        self._progress: FitProgress | None = None

    def follow(self, seed: RunSeed, stage: str, number: int, progress: FitProgress | None) -> None:
        """Learn what the run says.

        Args:
            seed: Of the run; a seed that the constructor was given stays.
            stage: `train`, `val`, `test` or `predict`.
            number: Of the loader, of several.
            progress: Of the fit, for a training loader.
        """
        self._run_seed, self.stage, self._number, self._progress = seed, stage, number, progress

    def share(self, rank: int, world_size: int) -> None:
        """Take a share of each batch, unless one was given to the constructor."""
        if not self._own_share:
            self.rank, self.world_size = rank, world_size

    @property
    def seed(self) -> int:
        """The constructor's, the run's, or without a run the one that the process was seeded with."""
        if self._own_seed is not None:
            return self._own_seed
        return self._run_seed.value if self._run_seed else self._process_seed

    @property
    def batch_sampler(self) -> Any:
        """Where Lightning looks for `set_epoch`."""
        # Made when asked for: one that refers to itself would leave its workers to the garbage collector, which takes
        # twenty seconds to end them.
        return SimpleNamespace(sampler=self)

    def set_epoch(self, epoch: int) -> None:
        """Choose the order; Lightning calls it before each epoch, and of a stream after its first batch."""
        if epoch != self.epoch:
            self.epoch, self.cycle = epoch, 0

    def number_of(self, cycle: int) -> int:
        """Return the number of the order: the epoch's, another for each further cycle in it, one for an evaluation."""
        if self.stage not in ("", "train"):
            number = 2**33 + zlib.crc32(self.stage.encode())
        else:
            number = 2**32 + mix(self.epoch, cycle) if cycle else self.epoch
        # Two loaders of one length would pair the same rows in each epoch.
        return 2**34 + mix(number, self._number) if self._number else number

    @property
    def number(self) -> int:
        """Of the order at hand."""
        return self.number_of(self.cycle)


class Position(RunLoader):
    """Knows which batches of an epoch are still to come, by Lightning's own count, and which of their rows are whose.

    Each row of a global batch belongs to one rank of W: the p-th row of the epoch to rank p modulo W. So W processes
    train like one, and each row comes once. Where a training batch has fewer rows than there are processes, a process
    without a row gets the first one again, with a weight of 0: its gradient counts nothing. An evaluation has no
    weights: there the last batch takes rows from the one before it. Only where a batch is a single row has a process
    one batch less than others.
    """

    def __init__(self, seed: int | None, rank: int | None = None, world_size: int | None = None) -> None:
        super().__init__(seed, rank, world_size)
        self._plans: dict[tuple[Any, ...], tuple[Sequence[tuple[int, int]], list[range]]] = {}

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

    def bounds(self, number: int) -> Sequence[tuple[int, int]]:
        """Return where the global batches begin and end among the rows of an order."""
        raise NotImplementedError

    def cut(self, num_rows: int, batch_size: int) -> Sequence[tuple[int, int]]:
        """Return the bounds of batches that hold at most `batch_size` rows on each rank."""
        at_least = 1 if self.stage == "train" or batch_size == 1 else self.world_size
        return cut(num_rows, batch_size * self.world_size, at_least)

    def _mine(self, start: int, stop: int) -> range:
        return range(start + (self.rank - start) % self.world_size, stop, self.world_size)

    def _plan(self, number: int) -> tuple[Sequence[tuple[int, int]], list[range]]:
        """Return the bounds of an order and this rank's shares."""
        key = (self.seed, number, self.stage, self.rank, self.world_size)
        if key not in self._plans:
            bounds, shares = self.bounds(number), []
            for start, stop in bounds:
                mine = self._mine(start, stop)
                if mine or self.stage == "train":
                    shares.append(mine or range(start, start + 1))
            self._plans = {key: (bounds, shares)}
        return self._plans[key]

    def shares(self, number: int) -> list[range]:
        """Return this rank's batches of an order, as places among its rows."""
        return self._plan(number)[1]

    def __len__(self) -> int:
        """Batches of an epoch; in training the same on each rank."""
        return len(self.shares(self.number_of(0)))

    def ordinals(self, batch: int) -> Tensor:
        """(B,) int64, which rows of the order the `batch`-th batch of this rank holds."""
        shares = self.shares(self.number)
        mine = shares[batch % len(shares)]
        return torch.arange(mine.start, mine.stop, mine.step)

    def weight_of(self, batch: int) -> float:
        """Return what the `batch`-th training batch of this rank counts for in the mean over all ranks.

        Mean gradients are averaged over the ranks, each with the same say. Where the rows of a batch do not split
        evenly, a rank's loss times its weight makes that average the mean over the rows.
        """
        cycle, batch = divmod(batch, len(self))
        number = self.number_of(cycle)
        bounds, _ = self._plan(number)
        start, stop = bounds[batch % len(bounds)]
        mine, whole = (self.num_samples(number, places) for places in (self._mine(start, stop), range(start, stop)))
        return mine * self.world_size / whole

    def num_samples(self, number: int, places: range) -> int:
        """Return how many samples some rows of an order hold."""
        return len(places)

    def begin(self) -> int:
        """Start to iterate; returns the first batch to hand out."""
        self.cycle = 0
        if self._progress is None:
            return 0
        before = self._progress.fetched()
        if not self._progress.cycles:
            return min(before, len(self))
        self.cycle, first = divmod(before, len(self))
        if self.cycle:
            self._progress.note_exhausted(self)
        return first

    def state_dict(self) -> dict[str, Any]:
        """Return what has to be the same for a position amid an epoch to mean anything."""
        bounds, _ = self._plan(self.number_of(0))
        own = {} if self._own_seed is None else {"seed": self._own_seed}
        return {"global_batch_size": bounds[0][1] - bounds[0][0], "num_batches": len(self)} | own

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Compare the batches with those of a checkpoint.

        Raises:
            UserError: If it is amid an epoch whose batches were others: rows would be lost or repeated. Or if no run
                tells the position.
        """
        if self._progress is None:
            raise UserError(
                f"{type(self).__name__} resumes amid an epoch only in a trainer that knows it: call "
                "src.engine.data.adopt.adopt(trainer, module, datamodule) before trainer.fit."
            )
        now = self.state_dict()
        if self._progress.trained() % state["num_batches"] and state != now:
            was, are = (
                f"{each['num_batches']} batches of {each['global_batch_size']}"
                + (f" in the order of seed {each['seed']}" if "seed" in each else "")
                for each in (state, now)
            )
            raise UserError(
                f"The checkpoint is amid an epoch of {was}; now there are {are}. Keep --data.batch_size times the "
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


def is_padding(trainer: Trainer) -> bool:
    """Return whether the training batch in hand of this process weighs nothing: it had no row of its own."""
    if trainer.world_size == 1:
        return False
    loader = next(leaves(trainer.train_dataloader), None)
    return isinstance(loader, Position) and loader.weight_of(trainer.fit_loop.batch_idx) == 0
