"""Takes over a DataLoader of samples with an index: exact order, shares and resume, whatever form the loader has."""

import copy
import itertools
import operator
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, DistributedSampler, RandomSampler, SequentialSampler

from src.engine.data.draw_sampler import draw_whole
from src.engine.data.draws import Place, Seeded
from src.engine.data.order import Position, mix, permutation
from src.engine.data.tensor_rows import tensors_of
from src.engine.data.workers import Outlive
from src.engine.errors import UserError
from src.engine.lightning_fixes.parts import EndsWorkers


class MapLoader(EndsWorkers, Position):
    """Hands out the batches of a DataLoader over a map-style data set.

    Its data set, collate function, workers and batch size are kept. A random or sequential sampler is replaced by an
    order that is a function of (seed, epoch); any other sampler is drawn whole at the start of an epoch, with the
    generators seeded by (seed, epoch). `batch_size` counts samples per process. The batches of a batch sampler are
    those of all processes together, each of which takes its rows: the number of processes changes nothing, and a bucket
    stays whole. With `batch_size=None` an item is a batch, and each process takes items in turn. In training each item
    of a step then counts the same in the gradient, however many samples it holds.

    Args:
        loader: In any legal form; it is left as it is.
        rank: 0 to W-1.
        world_size: W.
        keep_order: Whether each epoch is to have the same batches in the data's order: overfitting on purpose.
    """

    def __init__(self, loader: DataLoader[Any], rank: int, world_size: int, keep_order: bool = False) -> None:
        super().__init__(None)
        self.share(rank, world_size)
        self.loader = loader
        self.keep_order = keep_order
        self._own_batches = loader.batch_size is None and loader.batch_sampler is not None
        self._kind = self._kind_of(loader.sampler)
        self._drawn: dict[tuple[int, int], Sequence[Any]] = {}
        self._orders: dict[tuple[int, int], Sequence[Any] | Tensor] = {}
        self._places = _Places()
        self._tensors = None if self._own_batches else tensors_of(loader)
        self._source = loader if self._tensors else self._adopted()

    def _kind_of(self, sampler: Any) -> str:
        if type(sampler) is DistributedSampler:  # of the whole data: this class shares it itself
            return "random" if sampler.shuffle else "in order"
        gives = self.loader.batch_sampler if self._own_batches else sampler
        if any(hasattr(each, "num_replicas") for each in (gives, getattr(gives, "sampler", None))):
            self.rank, self.world_size = 0, 1  # it knows its share
            return "drawn"
        if self._own_batches:
            return "drawn"
        if type(sampler) is RandomSampler and not sampler.replacement:
            once = sampler.num_samples == len(sampler.data_source)
            return "drawn" if not once else "in order" if self.keep_order else "random"
        return "in order" if type(sampler) is SequentialSampler else "drawn"

    def _adopted(self) -> DataLoader[Any]:
        """The same loader over the seeded data set, with places of our choice."""
        loader = copy.copy(self.loader)
        seeded = Seeded(loader.dataset, loader.collate_fn)
        # A loader refuses to have these set; a copy needs them, and keeps what a subclass does beside.
        loader.__dict__ |= {
            "dataset": seeded,
            "collate_fn": seeded.collate,
            "sampler": self._places,
            "batch_sampler": self._places if loader.batch_sampler is not None else None,
            "worker_init_fn": Outlive(loader.worker_init_fn, seeded.dataset) if loader.num_workers else None,
            "generator": torch.Generator(),  # without it a loader draws from the one that dropout draws from
            "in_order": True,
        }
        return loader

    def number_of(self, cycle: int) -> int:
        """Return the number of the order: one for all epochs, where it is kept."""
        return 0 if self.keep_order else super().number_of(cycle)

    def _draw(self, number: int) -> Sequence[Any]:
        """All that a sampler of the user's gives for an order, the same on each process."""
        key = (self.seed, number)
        if key not in self._drawn:
            sampler: Any = self.loader.batch_sampler if self._own_batches else self.loader.sampler
            if not self._drawn and keeps_count(sampler):
                self._replay(sampler)
            # What `set_epoch` takes, NumPy's seeds for example, has 32 bits.
            drawn = draw_whole(sampler, self.loader, mix(*key, 2), number % 2**32)
            self._drawn = {key: [list(batch) for batch in drawn] if self._own_batches else drawn}
        return self._drawn[key]

    def _replay(self, sampler: Any) -> None:
        """Let a sampler with a counter or a generator of its own draw the epochs that were before a resume."""
        epoch, first = self.epoch, self._progress.first_epoch() if self._progress else self.epoch
        for self.epoch in range(first, epoch):
            number = self.number_of(0)
            draw_whole(sampler, self.loader, mix(self.seed, number, 2), number % 2**32)
        self.epoch = epoch

    def _order(self, number: int) -> Sequence[Any] | Tensor:
        if self._kind == "drawn":
            drawn = self._draw(number)
            return list(itertools.chain.from_iterable(drawn)) if self._own_batches else drawn
        length = self._length(number)
        return permutation(length, self.seed, number) if self._kind == "random" else torch.arange(length)

    def _length(self, number: int) -> int:
        """Rows of an epoch; a sampler may be of fewer than the data set has."""
        if self._own_batches:
            return sum(map(len, self._draw(number)))
        if self._kind == "drawn":
            return len(self._draw(number))
        sampler: Any = self.loader.sampler
        of: Any = sampler.dataset if isinstance(sampler, DistributedSampler) else sampler
        return len(of)

    def bounds(self, number: int) -> Sequence[tuple[int, int]]:
        """Return where the global batches begin and end among the rows of an order."""
        rows, size = self._length(number), self.loader.batch_size or 1
        self.refuse_fewer_rows_than_processes(rows)
        if self._own_batches:
            ends = list(itertools.accumulate(map(len, self._draw(number))))
            return [(start, stop) for start, stop in itertools.pairwise([0, *ends]) if start < stop]
        if not self.loader.drop_last:
            return self.cut(rows, size)
        if not (whole := rows // (size * self.world_size)):
            raise UserError(
                f"drop_last leaves no batch: {rows} samples are fewer than batch_size={size} times {self.world_size} "
                "processes. Set a smaller batch size, or drop_last=False."
            )
        return self.cut(whole * size * self.world_size, size)

    def num_samples(self, number: int, places: range) -> int:
        """Return how many samples some rows of an order hold: where there are no batches, a row may be a list."""
        if self._kind != "drawn" or self.loader.batch_sampler is not None:
            return len(places)
        rows = (self._draw(number)[place] for place in places)
        return sum(len(row) if isinstance(row, list) else 1 for row in rows)

    def sample_indices(self, batch: int) -> Tensor:
        """Return the data set's indices of the samples in the `batch`-th batch of this rank.

        Returns:
            (B,) int64; where a sampler gives no numbers, their places in its order.
        """
        places = self.ordinals(batch)
        if self._kind == "in order":
            return places
        key = (self.seed, self.number)
        if key not in self._orders:
            self._orders = {key: self._order(self.number)}
        picked = [self._orders[key][place] for place in places.tolist()]
        indices = [index for each in picked for index in (each if isinstance(each, list) else [each])]
        try:
            return torch.tensor([operator.index(index) for index in indices])
        except TypeError:
            return places

    def __iter__(self) -> Iterator[Any]:
        first = self.begin()
        order = self._order(self.number)
        shares = [order[mine.start : mine.stop : mine.step] for mine in self.shares(self.number)[first:]]
        yield from self._batches(shares)

    def _batches(self, shares: list[Any]) -> Iterator[Any]:
        if self._tensors:
            pin = self.loader.pin_memory and torch.cuda.is_available()
            for share in shares:
                rows = torch.as_tensor(share, device=self._tensors[0].device)
                batch = [tensor.index_select(0, rows) for tensor in self._tensors]
                yield [tensor.pin_memory() for tensor in batch] if pin else batch
            return
        key = mix(self.seed, self.number)
        lists = (share.tolist() if isinstance(share, Tensor) else share for share in shares)
        self._places.waiting = ([(key, index) for index in share] for share in lists)
        self._places.single = self._source.batch_sampler is None
        self._source.generator.manual_seed(mix(self.seed, self.number, self.rank, 3))
        yield from self._source


def keeps_count(sampler: Any) -> bool:
    """Whether a sampler may know how often it was drawn: torch's own do not, their generators are seeded."""
    return any(
        each is not None and not type(each).__module__.startswith(("torch.", "builtins"))
        for each in (sampler, getattr(sampler, "sampler", None))
    )


class _Places:
    """The batches that are still to come; workers that stay find the next epoch's here."""

    waiting: Iterator[list[Place]] = iter(())
    single = False

    def __iter__(self) -> Iterator[Any]:
        return (place for places in self.waiting for place in places) if self.single else self.waiting
