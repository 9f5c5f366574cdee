"""Batches of tensors that stay in memory: no workers, no per-sample call, one index operation a batch."""

import random
from collections.abc import Callable, Iterator
from types import SimpleNamespace

import torch
from torch import Tensor

from src.engine.errors import UserError


class TensorLoader:
    """Iterates over tensors in batches, on the device where the tensors lie.

    The order is a function of (seed, epoch) alone. This gives three things at once: a loader put back to a saved
    position goes on with the very next batch; W loaders with ranks 0 to W-1 and batch size B yield together, at each
    step, the rows that one loader with batch size B*W yields; and each row comes once per pass, none lost or repeated.

    Letters: N rows, B batch size per rank, W world size. The last batch is smaller; a rest of fewer than W rows, which
    would leave a rank without work, joins the batch before it.

    Args:
        tensors: Each (N_all, ...), all on one device; images as stored (uint8).
        batch_size: B, the samples a batch has on this rank.
        rows: (N,) int64, the rows of `tensors` to use, in this order. All by default.
        transform: Applied to the first tensor of each batch, (B, ...) to (B, ...).
        shuffle: Draw a new order for each pass.
        seed: Of the order. By default the one the process was seeded with (`--seed_everything`).
        passes: How often an epoch goes through the rows. Lightning has a fixed cost per epoch that a set of a few
            rows would feel.
        rank: 0 to W-1. A run of the command line tells it, as it does W, and moves the tensors to its device.
        world_size: W.

    Raises:
        UserError: If a batch would hold no row for some rank.
    """

    def __init__(
        self,
        tensors: tuple[Tensor, ...],
        batch_size: int,
        *,
        rows: Tensor | None = None,
        transform: Callable[[Tensor], Tensor] | None = None,
        shuffle: bool = False,
        seed: int | None = None,
        passes: int = 1,
        rank: int | None = None,
        world_size: int | None = None,
    ) -> None:
        self.tensors = tensors
        self.rows = torch.arange(len(tensors[0])) if rows is None else rows.cpu()
        self.transform = transform
        self.shuffle = shuffle
        self.seed = torch.initial_seed() if seed is None else seed
        self.passes = passes
        if batch_size < 1:
            raise UserError(f"batch_size={batch_size} must be at least 1. Set --data.batch_size.")
        self.batch_size = batch_size
        self._given = rank is not None
        self._shared_seed = seed is not None
        self.epoch = 0
        self.batch = 0
        self._resumed = False
        # Mean gradients are averaged over the ranks, each with the same say. Where the rows of a batch do not split
        # evenly, a rank's loss times its weight makes that average the mean over the rows.
        self.weight = 1.0
        # Where Lightning looks for `set_epoch`.
        self.batch_sampler = SimpleNamespace(sampler=self)
        self._share(rank or 0, world_size or 1)

    def _share(self, rank: int, world_size: int) -> None:
        self.rank = rank
        self.world_size = world_size
        if not self._shared_seed and world_size > 1 and torch.distributed.is_initialized():
            shared = [self.seed]  # `--seed_everything false` gives each process a seed of its own
            torch.distributed.broadcast_object_list(shared)
            self.seed = shared[0]
        if len(self.rows) < world_size:
            raise UserError(
                f"{len(self.rows)} samples cannot be shared by {world_size} processes: each needs at least one. "
                f"Set --trainer.devices to {len(self.rows)} or fewer."
            )
        self.global_batch_size = self.batch_size * world_size
        self._bounds = self._cut(len(self.rows), self.global_batch_size, world_size)

    def place(self, move: Callable[[Tensor], Tensor], rank: int, world_size: int, keep_order: bool) -> None:
        """Take up what a run settles; a loader that was given its rank keeps it.

        Args:
            move: Brings a tensor to the device of the run.
            rank: 0 to W-1.
            world_size: W.
            keep_order: Whether each epoch is to have the same batches: overfitting on purpose.
        """
        self.tensors = tuple(move(tensor) for tensor in self.tensors)
        self.shuffle = self.shuffle and not keep_order
        if not self._given:
            self._share(rank, world_size)

    @staticmethod
    def _cut(num_rows: int, global_batch_size: int, world_size: int) -> list[tuple[int, int]]:
        starts = list(range(0, num_rows, global_batch_size))
        if len(starts) > 1 and num_rows - starts[-1] < world_size:
            starts.pop()
        return list(zip(starts, [*starts[1:], num_rows], strict=True))

    def __len__(self) -> int:
        """Batches of an epoch, the same on each rank."""
        return self.passes * len(self._bounds)

    def __iter__(self) -> Iterator[tuple[Tensor, ...]]:
        # Lightning leaves an epoch's iterator where it stops and never exhausts it, so a new epoch begins here.
        first = self.batch if self._resumed else 0
        self._resumed = False
        per_pass = len(self._bounds)
        order = torch.empty(0)
        for batch in range(first, len(self)):
            if batch == first or batch % per_pass == 0:
                order = self._order(self.epoch * self.passes + batch // per_pass)
            start, stop = self._bounds[batch % per_pass]
            mine = order[start:stop][self.rank :: self.world_size]
            # Nine times as fast as tensor[mine] on images of a byte a pixel.
            x, *rest = (tensor.index_select(0, mine) for tensor in self.tensors)
            self.batch = batch + 1
            self.weight = len(mine) * self.world_size / (stop - start)
            yield (x if self.transform is None else self.transform(x), *rest)

    def _order(self, number: int) -> Tensor:
        """(N,) int64, the rows in the order of pass `number`, on the tensors' device."""
        rows = self.rows
        if self.shuffle:
            # torch keeps 32 bits of a generator's seed and neighbours would share orders: mix both numbers first.
            mixed = random.Random(f"{self.seed}/{number}").getrandbits(32)
            rows = rows[torch.randperm(len(rows), generator=torch.Generator().manual_seed(mixed))]
        return rows.to(self.tensors[0].device)

    def set_epoch(self, epoch: int) -> None:
        """Choose the order; Lightning calls it before each epoch."""
        # A position saved in another epoch says nothing about this one.
        self._resumed = self._resumed and epoch == self.epoch
        self.epoch = epoch

    def state_dict(self) -> dict[str, int]:
        """The position, the epoch and how many of its batches were handed out, and what gives the order."""
        order = {"seed": self.seed, "global_batch_size": self.global_batch_size, "num_batches": len(self)}
        return {"epoch": self.epoch, "batch": self.batch} | order

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Go on at a saved position, in the order it belongs to.

        Raises:
            UserError: If the position is amid an epoch whose batches were others: rows would be lost or repeated.
        """
        self.epoch, self.batch, self.seed = state["epoch"], state["batch"], state["seed"]
        self._resumed = self.batch < state["num_batches"]
        was, now = (state["num_batches"], state["global_batch_size"]), (len(self), self.global_batch_size)
        if self._resumed and was != now:
            raise UserError(
                f"The checkpoint is amid an epoch of {was[0]} batches of {was[1]}; now there are {now[0]} of {now[1]}. "
                "Keep --data.batch_size times the number of processes, or resume from a checkpoint between two epochs."
            )
