"""Takes over a DataLoader of samples with an index: exact order, shares and resume, whatever form the loader has."""

import copy
import itertools
import operator
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import (
    DataLoader,
    DistributedSampler,
    RandomSampler,
    SequentialSampler,
    Subset,
    TensorDataset,
    default_collate,
)

from src.engine.data.order import OrderedLoader, Role, hash_seed, permutation
from src.engine.data.seeding import SeededDataset, draw_sampler
from src.engine.data.workers import IgnoreSignals
from src.engine.errors import UserError
from src.engine.lightning_fixes.trainer import EndsWorkers


class MapLoader(EndsWorkers, OrderedLoader):
    """Hands out the batches of a DataLoader over a map-style data set.

    A random or sequential sampler is replaced by an order that is a function of (seed, epoch); any other sampler is
    drawn whole at the start of an epoch, with the generators seeded by (seed, epoch). `batch_size` counts samples per
    process. The batches of a batch sampler are those of all processes together, each of which takes its rows: a bucket
    stays whole. With `batch_size=None` an item is a batch, and each process takes items in turn. In training each item
    of a step then counts the same in the gradient, however many samples it holds.

    Args:
        loader: In any legal form; it is left as it is.
        role: Of this process.
    """

    def __init__(self, loader: DataLoader[Any], role: Role) -> None:
        super().__init__()
        self.loader = loader
        self._own_batches = loader.batch_size is None and loader.batch_sampler is not None
        self._sampler: Any = loader.batch_sampler if self._own_batches else loader.sampler
        self._coming = _Coming()
        self._tensors = None if self._own_batches else tensors_of(loader)
        self._source = loader if self._tensors else self._seeded()
        self.follow(role)

    def follow(self, role: Role) -> None:
        """Serve a run; a sampler of the user's that knows its share of the data keeps it."""
        knows_share = type(self._sampler) is not DistributedSampler and any(
            hasattr(each, "num_replicas") for each in (self._sampler, getattr(self._sampler, "sampler", None))
        )
        self._orders: dict[int, tuple[Any, list[int]]] = {}
        super().follow(replace(role, rank=0, world_size=1) if knows_share else role)

    def _seeded(self) -> DataLoader[Any]:
        """Return the same loader over the seeded data set, with batches of our choice."""
        loader = copy.copy(self.loader)
        batched = loader.batch_sampler is not None
        seeded = SeededDataset(loader.dataset, loader.collate_fn, batched)
        # A loader refuses to have these set; a copy needs them, and keeps what a subclass does beside.
        loader.__dict__ |= {
            "dataset": seeded,
            "collate_fn": seeded.collate,
            "sampler": self._coming,
            "batch_sampler": self._coming if batched else None,
            "worker_init_fn": IgnoreSignals(loader.worker_init_fn, loader.dataset) if loader.num_workers else None,
            "generator": torch.Generator(),  # without it a loader draws from the one that dropout draws from
            "in_order": True,
        }
        return loader

    def number_of(self, cycle: int) -> int:
        """Return the number of the order: one for all epochs, where it is kept."""
        return 0 if self.role.keep_order else super().number_of(cycle)

    def _order(self, number: int) -> tuple[Any, list[int]]:
        """Return the samples of an epoch as they come, and where the batches of a batch sampler end among them."""
        if number not in self._orders:
            order, ends = self._make_order(number), []
            if self._own_batches:
                order = [list(batch) for batch in order]
                ends = list(itertools.accumulate(map(len, order)))
                order = list(itertools.chain.from_iterable(order))
            self._orders = {number: (order, ends)}
        return self._orders[number]

    def _make_order(self, number: int) -> Any:
        sampler = self._sampler
        if type(sampler) is DistributedSampler:  # of the whole data: this class shares it itself
            length, shuffle = len(sampler.dataset), sampler.shuffle  # type: ignore[arg-type]
        elif type(sampler) is SequentialSampler:
            length, shuffle = len(sampler), False
        elif type(sampler) is RandomSampler and not sampler.replacement and len(sampler) == len(sampler.data_source):
            length, shuffle = len(sampler), True
        else:
            return self._draw(number)
        return permutation(length, self.seed, number) if shuffle and not self.role.keep_order else torch.arange(length)

    def _draw(self, number: int) -> list[Any]:
        """Draw a sampler of the user's; one that may keep count of its epochs also draws those before a resume."""
        inner = getattr(self._sampler, "sampler", self._sampler)
        known = ("torch.", "builtins")  # they keep no count
        progress, epoch = self.role.progress, self.epoch
        if (
            progress
            and not self._orders
            and not all(type(each).__module__.startswith(known) for each in (self._sampler, inner))
        ):
            for self.epoch in range(progress.first_epoch(), epoch):
                self._draw_whole(self.number_of(0))
            self.epoch = epoch
        return self._draw_whole(number)

    def _draw_whole(self, number: int) -> list[Any]:
        # What `set_epoch` takes, NumPy's seeds for example, has 32 bits.
        return draw_sampler(self._sampler, self.loader, hash_seed(self.seed, number, 2), number % 2**32)

    def bounds(self, number: int) -> Sequence[tuple[int, int]]:
        """Return where the global batches begin and end among the rows of an order."""
        order, ends = self._order(number)
        if self._own_batches:
            return [(start, stop) for start, stop in itertools.pairwise([0, *ends]) if start < stop]
        rows, size, world_size = len(order), self.loader.batch_size or 1, self.role.world_size
        if not self.loader.drop_last:
            return self.cut(rows, size)
        if not (whole := rows // (size * world_size)):
            raise UserError(
                f"drop_last leaves no batch: {rows} samples are fewer than batch_size={size} times {world_size} "
                "processes. Set a smaller batch size, or drop_last=False."
            )
        return self.cut(whole * size * world_size, size)

    def sample_indices(self, batch: int) -> Tensor:
        """Return the data set's indices of the samples in the `batch`-th batch of this rank.

        Returns:
            (B,) int64; where a sampler gives no numbers, their places in its order.
        """
        places, (order, _) = self.places(batch), self._order(self.number)
        if isinstance(order, Tensor):
            return order[places]
        picked = [order[place] for place in places.tolist()]
        indices = [index for each in picked for index in (each if isinstance(each, list) else [each])]
        try:
            return torch.tensor([operator.index(index) for index in indices])
        except TypeError:
            return places

    def __iter__(self) -> Iterator[Any]:
        first = self.begin()
        order, _ = self._order(self.number)
        shares = (order[mine.start : mine.stop : mine.step] for mine in self.shares[first:])
        if self._tensors:
            pin = self.loader.pin_memory and torch.cuda.is_available()
            for share in shares:
                rows = torch.as_tensor(share, device=self._tensors[0].device)
                batch = [tensor.index_select(0, rows) for tensor in self._tensors]
                yield [tensor.pin_memory() for tensor in batch] if pin else batch
            return
        key, batched = hash_seed(self.seed, self.number), self._source.batch_sampler is not None
        lists = (share.tolist() if isinstance(share, Tensor) else list(share) for share in shares)
        self._coming.batches = ((key, share if batched else share[0]) for share in lists)
        self._source.generator.manual_seed(hash_seed(self.seed, self.number, self.role.rank, 3))
        yield from self._source


class _Coming:
    """Holds the batches that are still to come; workers that stay find the next epoch's here."""

    batches: Iterator[tuple[int, Any]] = iter(())

    def __iter__(self) -> Iterator[tuple[int, Any]]:
        return self.batches


def tensors_of(loader: DataLoader[Any]) -> tuple[Tensor, ...] | None:
    """Return the tensors whose rows are the loader's samples: then a batch is one index operation, with the same bits.

    Args:
        loader: Over a TensorDataset, or a Subset of one, with torch's own collate function; of any other None.
    """
    if type(loader) is not DataLoader or loader.collate_fn is not default_collate or loader.batch_sampler is None:
        return None
    dataset, rows = loader.dataset, None
    while type(dataset) is Subset:
        chosen = torch.as_tensor(dataset.indices)
        rows = chosen if rows is None else chosen[rows]
        dataset = dataset.dataset
    if type(dataset) is not TensorDataset:
        return None
    return dataset.tensors if rows is None else tuple(tensor[rows] for tensor in dataset.tensors)
