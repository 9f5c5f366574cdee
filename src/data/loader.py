"""Batches of tensors that stay in memory: no workers, no per-sample call, one index operation a batch."""

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from src.engine.errors import UserError
from src.engine.data.order import Position, permutation


class TensorLoader(Position):
    """Iterates over tensors in batches, on the device where the tensors lie.

    The order is a function of (seed, epoch) alone. So a resumed run goes on with the very next batch; W loaders of
    batch size B yield together, at each step, the rows that one of batch size B*W yields; and each row comes once per
    pass, none lost or repeated.

    Letters: N rows, B batch size per rank, W world size. The last batch is smaller.

    Args:
        tensors: Each (N_all, ...), all on one device; images as stored (uint8).
        batch_size: B, the samples a batch has on this rank.
        rows: (N,) int64, the rows of `tensors` to use, in this order. All by default.
        transform: Applied to the first tensor of each batch, (B, ...) to (B, ...).
        shuffle: Draw a new order for each pass.
        seed: Of the order. By default the one the process was seeded with (`--seed_everything`).
        passes: How often an epoch goes through the rows: an epoch has a fixed cost, which few rows would feel.
        rank: 0 to W-1. A run tells it, as it does W, and moves the tensors to its device.
        world_size: W.

    Raises:
        UserError: If a batch would hold no row for some rank, or the tensors differ in length.
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
        super().__init__(seed, rank, world_size)
        for name, value in (("batch_size", batch_size), ("passes", passes)):
            if value < 1:
                raise UserError(f"{name}={value} must be at least 1. Set --data.{name}.")
        if len({len(tensor) for tensor in tensors}) > 1:
            raise UserError(
                f"The tensors have {', '.join(f'{len(each):,}' for each in tensors)} rows, not the same number."
            )
        self.tensors = tensors
        self.batch_size = batch_size
        self.rows = torch.arange(len(tensors[0])) if rows is None else rows.cpu()
        self.transform = transform
        self.shuffle = shuffle
        self.passes = passes
        self.refuse_fewer_rows_than_processes(len(self.rows))

    def place(self, move: Callable[[Tensor], Tensor], rank: int, world_size: int, keep_order: bool) -> None:
        """Take over a run's order, see `src.engine.data.adopt.Placeable`; a rank that was given stays."""
        self.tensors = tuple(move(tensor) for tensor in self.tensors)
        self.shuffle = self.shuffle and not keep_order
        self.share(rank, world_size)
        self.refuse_fewer_rows_than_processes(len(self.rows))

    def bounds(self, number: int) -> Sequence[tuple[int, int]]:
        """Return where the global batches of a pass begin and end."""
        return self.cut(len(self.rows), self.batch_size)

    def __len__(self) -> int:
        """Batches of an epoch; in training the same on each rank."""
        return self.passes * super().__len__()

    def __iter__(self) -> Iterator[tuple[Tensor, ...]]:
        first = self.begin()
        shares = self.shares(self.number)
        order = torch.empty(0)
        for batch in range(first, len(self)):
            turn, place = divmod(batch, len(shares))
            if batch == first or place == 0:
                order = self._order(self.number * self.passes + turn)
            mine = shares[place]
            # Nine times as fast as tensor[mine] on images of a byte a pixel.
            x, *rest = (tensor.index_select(0, order[mine.start : mine.stop : mine.step]) for tensor in self.tensors)
            yield (x if self.transform is None else self.transform(x), *rest)

    def _order(self, number: int) -> Tensor:
        """(N,) int64, the rows in the order of pass `number`, on the tensors' device."""
        rows = self.rows[permutation(len(self.rows), self.seed, number)] if self.shuffle else self.rows
        return rows.to(self.tensors[0].device)

    def sample_indices(self, batch: int) -> Tensor:
        """(B,) int64, where the samples in the `batch`-th batch of this rank stand among `rows`."""
        places, turn = self.ordinals(batch), batch // len(self.shares(self.number))
        number = self.number * self.passes + turn
        return permutation(len(self.rows), self.seed, number)[places] if self.shuffle else places
