"""Takes over a DataLoader of samples with an index: exact order, shares and resume, whatever form the loader has."""

import copy
import itertools
import operator
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, DistributedSampler, RandomSampler, SequentialSampler

from src.engine.draw_sampler import draw_whole
from src.engine.draws import Place, Seeded
from src.engine.errors import UserError
from src.engine.lightning_fixes.parts import EndsWorkers
from src.engine.order import Position, cut, mix, permutation
from src.engine.tensor_rows import tensors_of
from src.engine.workers import Outlive


class MapLoader(EndsWorkers, Position):
    """Hands out the batches of a DataLoader over a map-style data set.

    Its data set, collate function, workers and batch size are kept. A random or sequential sampler is replaced by an
    order that is a function of (seed, epoch); any other sampler is drawn whole at the start of an epoch, with the
    generators seeded by (seed, epoch). `batch_size` counts samples per process. The batches of a batch sampler are
    those of all processes together, each of which takes its rows: the number of processes changes nothing, and a bucket
    stays whole.

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
        self._drawn: tuple[int, Sequence[Any]] | None = None
        self._cut: tuple[int, list[tuple[int, int]]] | None = None
        self._indices: tuple[int, Sequence[Any] | Tensor] | None = None
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

    @property
    def _number(self) -> int:
        return 0 if self.keep_order else self.number

    def _draw(self) -> Sequence[Any]:
        """All that a sampler of the user's gives for this epoch, the same on each process."""
        if self._drawn is None or self._drawn[0] != self._number:
            sampler: Any = self.loader.batch_sampler if self._own_batches else self.loader.sampler
            drawn = draw_whole(sampler, self.loader, mix(self.seed, self._number, 2), self._number)
            self._drawn = (self._number, [list(batch) for batch in drawn] if self._own_batches else drawn)
        return self._drawn[1]

    def _order(self) -> Sequence[Any] | Tensor:
        if self._kind == "drawn":
            return self._draw()
        length = self._length()
        return permutation(length, self.seed, self._number) if self._kind == "random" else torch.arange(length)

    def _length(self) -> int:
        """Rows of an epoch; a sampler may be of fewer than the data set has."""
        if self._kind == "drawn":
            return len(self._draw())
        sampler: Any = self.loader.sampler
        of: Any = sampler.dataset if isinstance(sampler, DistributedSampler) else sampler
        return len(of)

    def _bounds(self) -> list[tuple[int, int]]:
        """Where the global batches begin and end among the rows in the epoch's order."""
        if self._cut is None or (self._kind == "drawn" and self._cut[0] != self._number):
            self._cut = (self._number, self._cut_anew())
        return self._cut[1]

    def _cut_anew(self) -> list[tuple[int, int]]:
        world_size, size = self.world_size, self.loader.batch_size
        if self._own_batches:
            ends = list(itertools.accumulate(len(batch) for batch in self._draw()))
            bounds: list[tuple[int, int]] = []
            for start, stop in zip([0, *ends[:-1]], ends, strict=True):
                # A batch of fewer rows than processes joins the one before it, or the next.
                if bounds and min(stop - start, bounds[-1][1] - bounds[-1][0]) < world_size:
                    bounds[-1] = (bounds[-1][0], stop)
                else:
                    bounds.append((start, stop))
            rows = ends[-1] if ends else 0
        else:
            rows = self._length()
            if self.loader.batch_sampler is None and rows % world_size:
                raise UserError(
                    f"batch_size=None gives {rows} samples one by one, which {world_size} processes cannot share "
                    "evenly. Give the DataLoader a batch_size, or set --trainer.devices to a number that divides them."
                )
            bounds = cut(rows, (size or 1) * world_size, world_size)
            if self.loader.drop_last:
                bounds = [(start, stop) for start, stop in bounds if stop - start >= (size or 1) * world_size]
        self.refuse_fewer_rows_than_processes(rows)
        if not bounds:
            raise UserError(
                f"drop_last leaves no batch: {rows} samples are fewer than batch_size={size} times {world_size} "
                "processes. Set a smaller batch size, or drop_last=False."
            )
        return bounds

    def __len__(self) -> int:
        """Batches of an epoch, the same on each rank."""
        return len(self._bounds())

    def makes_the_order(self) -> dict[str, int]:
        """What has to be the same for a position amid an epoch to mean anything."""
        bounds = self._bounds()
        return {"global_batch_size": bounds[0][1] - bounds[0][0], "num_batches": len(bounds)}

    def ordinals(self, batch: int) -> Tensor:
        """(B,) int64, which rows of the epoch's order the `batch`-th batch of this rank holds."""
        return torch.arange(*self._bounds()[batch])[self.rank :: self.world_size]

    def sample_indices(self, batch: int) -> Tensor:
        """Return the data set's indices of the samples in the `batch`-th batch of this rank.

        Returns:
            (B,) int64; where a sampler gives no numbers, their places in its order.
        """
        places = self.ordinals(batch)
        if self._kind == "in order":
            return places
        if self._indices is None or self._indices[0] != self._number:
            order = self._order()
            self._indices = (self._number, list(itertools.chain.from_iterable(order)) if self._own_batches else order)
        picked = [self._indices[1][place] for place in places.tolist()]
        indices = [index for each in picked for index in (each if isinstance(each, list) else [each])]
        try:
            return torch.tensor([operator.index(index) for index in indices])
        except TypeError:
            return places

    def __iter__(self) -> Iterator[Any]:
        first = self.begin()
        bounds, order = self._bounds(), self._order()
        if self._own_batches:
            order = list(itertools.chain.from_iterable(order))
        wholes = [order[start:stop] for start, stop in bounds[first:]]
        shares = [whole[self.rank :: self.world_size] for whole in wholes]
        for share, whole, batch in zip(shares, wholes, self._batches(shares), strict=False):
            self.hand_out(self._num_samples(share), of=self._num_samples(whole))
            yield batch
        self.finish()

    def _num_samples(self, indices: Any) -> int:
        """Where the loader makes no batches, a sampler may give lists of indices."""
        if self.loader.batch_sampler is not None:
            return len(indices)
        return sum(len(index) if isinstance(index, list) else 1 for index in indices)

    def _batches(self, shares: list[Any]) -> Iterator[Any]:
        if self._tensors:
            pin = self.loader.pin_memory and torch.cuda.is_available()
            for share in shares:
                rows = torch.as_tensor(share, device=self._tensors[0].device)
                batch = [tensor.index_select(0, rows) for tensor in self._tensors]
                yield [tensor.pin_memory() for tensor in batch] if pin else batch
            return
        key = mix(self.seed, self._number)
        lists = (share.tolist() if isinstance(share, Tensor) else share for share in shares)
        self._places.waiting = ([(key, index) for index in share] for share in lists)
        self._places.single = self._source.batch_sampler is None
        self._source.generator.manual_seed(mix(self.seed, self._number, self.rank, 3))
        yield from self._source


class _Places:
    """The batches that are still to come; workers that stay find the next epoch's here."""

    waiting: Iterator[list[Place]] = iter(())
    single = False

    def __iter__(self) -> Iterator[Any]:
        return (place for places in self.waiting for place in places) if self.single else self.waiting
