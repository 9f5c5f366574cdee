"""The order of the data is a function of (seed, epoch): which rows come next, and on which rank."""

import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any, NamedTuple

import torch
from lightning.pytorch import Trainer
from lightning.pytorch.utilities import CombinedLoader
from torch import Tensor

from src.engine.data.seeding import hash_seed
from src.engine.errors import UserError
from src.engine.lightning_fixes.loops import FitProgress, training_weight


def permutation(length: int, seed: int, number: int) -> Tensor:
    """Return (length,) int64, a new order for each (seed, number)."""
    # torch keeps 32 bits of a generator's seed and neighbours would share orders: mix both numbers first.
    mixed = random.Random(f"{seed}/{number}").getrandbits(32)
    return torch.randperm(length, generator=torch.Generator().manual_seed(mixed))


@dataclass(frozen=True)
class Role:
    """Tells a loader about the run that it serves."""

    seed: int = field(default_factory=torch.initial_seed)  # the run's, else the one that the process was seeded with
    stage: str = ""  # train, val, test or predict
    number: int = 0  # of the loader, of several
    rank: int = 0
    world_size: int = 1
    epoch: int = 0  # in which it begins
    keep_order: bool = False  # each epoch has the data's order: overfitting on purpose
    progress: FitProgress | None = None  # of the fit, for a training loader


class Plan(NamedTuple):
    """One order of the rows."""

    rows: Any  # the samples as they come, as a tensor or a list
    bounds: Sequence[tuple[int, int]]  # where the global batches begin and end among them
    shares: list[range]  # of these, the places of this rank's batches


class RunLoader:
    """Base class of loaders that know the run.

    The order, and all that is drawn, is a function of (seed, epoch) in training and of (seed, stage) in evaluation.

    Args:
        seed: By default the run's, else the one that the process was seeded with.
    """

    tensors: tuple[Tensor, ...] = ()  # a run moves them to its device

    def __init__(self, seed: int | None = None) -> None:
        self._own_seed = seed
        RunLoader.follow(self, Role())

    def follow(self, role: Role) -> None:
        """Serve a run."""
        self.role, self.epoch = role, role.epoch
        self.seed = role.seed if self._own_seed is None else self._own_seed
        self.cycle = 0  # of several loaders a short one starts again before the epoch is over
        self._plans: dict[int, Plan] = {}

    @property
    def batch_sampler(self) -> Any:
        """Return the object on whose `sampler` Lightning calls `set_epoch`."""
        # Made when asked for: a reference to itself would leave the workers to the garbage collector for 20 seconds.
        return SimpleNamespace(sampler=self)

    def set_epoch(self, epoch: int) -> None:
        """Choose the order; Lightning calls it before each epoch, and of a stream after its first batch."""
        if epoch != self.epoch:
            self.epoch, self.cycle = epoch, 0

    def number_of(self, cycle: int, epoch: int | None = None) -> int:
        """Return the number of an order: in training the epoch's, another for each further cycle in it."""
        epoch = self.epoch if epoch is None else epoch
        role, trains = self.role, self.role.stage in ("", "train")
        if role.keep_order or (trains and cycle == role.number == 0):
            return 0 if role.keep_order else epoch
        # Two loaders of one length would otherwise pair the same rows in each epoch.
        return 2**32 + hash_seed(role.stage, role.number, *((epoch, cycle) if trains else ()))

    @property
    def number(self) -> int:
        """Return the number of the present order."""
        return self.number_of(self.cycle)


class OrderedLoader(RunLoader):
    """Base class of loaders whose batches are known in advance; resumes by Lightning's count of batches.

    Each row of a global batch belongs to one rank of W: the p-th row of the epoch to rank p modulo W. So W processes
    train like one, and each row comes once. In a training batch with fewer rows than processes, a process without a
    row gets the first one again, with a weight of 0. An evaluation has no weights: there the last batch takes rows
    from the one before it. Only where a batch is a single row has a process one batch less than others.
    """

    def arrange(self, number: int) -> tuple[Any, Sequence[tuple[int, int]]]:
        """Return the rows of an order, and where the global batches begin and end among them."""
        raise NotImplementedError

    def cut(self, num_rows: int, batch_size: int) -> Sequence[tuple[int, int]]:
        """Return the bounds of batches of `batch_size` rows on each rank; the last one is smaller.

        Where each rank needs a row and the last batch has too few, it takes some of the batch before it.
        """
        world_size = self.role.world_size
        starts = list(range(0, num_rows, batch_size * world_size))
        if len(starts) > 1 and self.role.stage != "train" and batch_size > 1:
            starts[-1] = min(starts[-1], num_rows - world_size)
        return list(zip(starts, [*starts[1:], num_rows], strict=True)) if starts else []

    def _mine(self, start: int, stop: int) -> range:
        return range(start + (self.role.rank - start) % self.role.world_size, stop, self.role.world_size)

    def plan(self, number: int) -> Plan:
        """Make an order, or find it: that of this cycle and of the epoch's first one are kept.

        Raises:
            UserError: If there are fewer rows than processes, or none.
        """
        if number not in self._plans:
            rows, bounds = self.arrange(number)
            num_rows, world_size = bounds[-1][1] if bounds else 0, self.role.world_size
            if num_rows < world_size:
                raise UserError(
                    f"{num_rows} samples are too few for {world_size} processes: each loads at least one. Look at the "
                    "data set and the rows taken of it, or set fewer --trainer.devices, or drop_last=False."
                )
            trains = self.role.stage == "train"
            shares = [mine or range(b[0], b[0] + 1) for b in bounds if (mine := self._mine(*b)) or trains]
            self._plans = {k: plan for k, plan in self._plans.items() if k == self.number_of(0)}
            self._plans[number] = Plan(rows, bounds, shares)
        return self._plans[number]

    @property
    def shares(self) -> list[range]:
        """Return this rank's batches, as places among the rows of the present order."""
        return self.plan(self.number).shares

    def __len__(self) -> int:
        """Batches of an epoch, which are those of its first cycle; in training the same on each rank."""
        return len(self.plan(self.number_of(0)).shares)

    def places(self, batch: int) -> Tensor:
        """Return (B,) int64, where the rows of the `batch`-th batch of this rank stand in the order."""
        mine = self.shares[batch % len(self.shares)]
        return torch.arange(mine.start, mine.stop, mine.step)

    def weight_of(self, batch: int) -> float:
        """Return what the `batch`-th training batch of this rank counts for in the mean over all ranks.

        Mean gradients are averaged over the ranks, each with the same say. Where the rows of a batch do not split
        evenly, a rank's loss times its weight makes that average the mean over the rows.
        """
        cycle, batch = divmod(batch, len(self))
        bounds = self.plan(self.number_of(cycle)).bounds
        start, stop = bounds[batch % len(bounds)]
        return len(self._mine(start, stop)) * self.role.world_size / (stop - start)

    def begin(self) -> int:
        """Start to iterate; return the first batch to hand out."""
        progress, self.cycle = self.role.progress, 0
        first = progress.fetched() if progress else 0
        if progress and progress.cycles:
            self.cycle, first = divmod(first, len(self))
            if self.cycle:
                progress.note_exhausted(self)
        return min(first, len(self))

    def state_dict(self) -> dict[str, Any]:
        """Return what has to be the same for a position within an epoch to mean anything."""
        start, stop = self.plan(self.number_of(0)).bounds[0]
        return {"global_batch_size": stop - start, "num_batches": len(self), "seed": self.seed}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Compare the batches with those of a checkpoint.

        Raises:
            UserError: If it is within an epoch whose batches were others, so that rows would be lost or repeated; or if
                the trainer does not know this loader.
        """
        if self.role.progress is None:
            raise UserError(
                f"{type(self).__name__} resumes within an epoch only in a trainer that knows it: call "
                "src.engine.data.adopt.adopt(trainer, module, datamodule) before trainer.fit."
            )
        now = self.state_dict()
        if self.role.progress.trained() % state["num_batches"] and state != now:
            text = "{num_batches} batches of {global_batch_size} in the order of seed {seed}"
            raise UserError(
                f"The checkpoint is within an epoch of {text.format(**state)}; now there are {text.format(**now)}. "
                "Keep --data.batch_size times the number of processes (in Python also adopt(..., seed=...)), or resume "
                "from between two epochs."
            )


def flatten_loaders(loaders: Any) -> list[Any]:
    """Return each loader of a collection of them."""
    combined = loaders if isinstance(loaders, CombinedLoader) else CombinedLoader(loaders)
    return list(combined.flattened)


def batch_weight(trainer: Trainer) -> float | Tensor:
    """Return this rank's weight in the mean of a step: the module's `batch_weight()`, or by rows. All ranks call it."""
    weight: Tensor | None = getattr(trainer.lightning_module, "batch_weight", lambda: None)()
    return training_weight(trainer) if weight is None else weight
