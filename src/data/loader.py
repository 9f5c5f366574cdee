"""Batches of tensors that stay in memory: no workers, no per-sample call, one index operation a batch."""

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from src.engine.errors import UserError
from src.engine.data.order import OrderedLoader, Role, permutation


class TensorLoader(OrderedLoader):
    """Iterates over tensors in batches, on the device where the tensors lie.

    The order is a function of (seed, epoch) alone: a resumed run continues with the next batch. W processes with
    batches of B rows yield the rows that one process with batches of B*W yields, and each row once per pass.

    Args:
        tensors: Each (N_all, ...), all on one device; images as stored (uint8). A run moves them to its device.
        batch_size: B, the samples a batch has on each process; the last batch is smaller.
        rows: (N,) int64, the rows of `tensors` to use, in this order. All by default.
        transform: Applied to the first tensor of each batch, (B, ...) to (B, ...).
        shuffle: Draw a new order for each pass.
        seed: Of the order. By default that of the run (`--seed_everything`).
        passes: How often an epoch goes through the rows: an epoch has a fixed cost, which few rows would feel.
        rank: 0 to W-1, for a loop of your own; a run sets it.
        world_size: W, likewise.

    Raises:
        UserError: If the tensors differ in length, or `batch_size` or `passes` is below 1.
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
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        super().__init__(seed)
        for name, value in (("batch_size", batch_size), ("passes", passes)):
            if value < 1:
                raise UserError(f"{name}={value} must be at least 1. Set --data.{name}.")
        if len(lengths := {len(tensor) for tensor in tensors}) > 1:
            raise UserError(f"The tensors have {', '.join(map(str, sorted(lengths)))} rows, not the same number.")
        self.tensors = tensors
        self.batch_size = batch_size
        self.rows = torch.arange(len(tensors[0])) if rows is None else rows.cpu()
        self.transform = transform
        self.shuffle = shuffle
        self.passes = passes
        self.follow(Role(rank=rank, world_size=world_size))

    def arrange(self, number: int) -> tuple[Tensor, Sequence[tuple[int, int]]]:
        """Return the rows, and where the global batches of a pass begin and end."""
        return self.rows, self.cut(len(self.rows), self.batch_size)

    def __len__(self) -> int:
        """Return the batches of an epoch; in training the same number on each process."""
        return self.passes * super().__len__()

    def __iter__(self) -> Iterator[tuple[Tensor, ...]]:
        first, shares, rows = self.begin(), self.shares, torch.empty(0)
        for batch in range(first, len(self)):
            turn, place = divmod(batch, len(shares))
            if batch == first or (place == 0 and self.shuffle):
                rows = self.rows[self._order(turn)].to(self.tensors[0].device)
            mine = shares[place]
            # Nine times as fast as tensor[mine] on images of a byte a pixel.
            x, *rest = (tensor.index_select(0, rows[mine.start : mine.stop : mine.step]) for tensor in self.tensors)
            yield (x if self.transform is None else self.transform(x), *rest)

    def _order(self, turn: int) -> Tensor:
        """Return (N,) int64, the order of `rows` in a pass of this epoch."""
        if not self.shuffle or self.role.keep_order:
            return torch.arange(len(self.rows))
        return permutation(len(self.rows), self.seed, self.number * self.passes + turn)

    def sample_indices(self, batch: int) -> Tensor:
        """Return (B,) int64, where the samples of this process's `batch`-th batch stand among `rows`."""
        return self._order(batch // len(self.shares))[self.places(batch)]
