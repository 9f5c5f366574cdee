"""Takes over a DataLoader of samples with an index: exact order, shares and resume, whatever form the loader has."""

import copy
import itertools
from collections.abc import Iterator, Sequence
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

from src.engine.draws import Place, Seeded, apart, seed_all
from src.engine.errors import UserError
from src.engine.order import Position, cut, mix, permutation
from src.engine.workers import Outlive


class MapLoader(Position):
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
        self._places = _Places()
        self._tensors = None if self._own_batches else tensors_of(loader)
        self._source = loader if self._tensors else self._adopted()

    def _kind_of(self, sampler: Any) -> str:
        if self._own_batches:
            return "drawn"
        if isinstance(sampler, DistributedSampler):
            if type(sampler) is DistributedSampler:  # of the whole data: this class shares it itself
                return "random" if sampler.shuffle else "in order"
            self.rank, self.world_size = 0, 1  # one of the user's own, which knows its share
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
            inner = getattr(sampler, "sampler", None)
            seed = mix(self.seed, self._number, 2)
            with apart():
                seed_all(seed)
                for each in (self.loader, sampler, inner):
                    if isinstance(generator := getattr(each, "generator", None), torch.Generator):
                        generator.manual_seed(seed)
                    if callable(set_epoch := getattr(each, "set_epoch", None)):
                        set_epoch(self._number)
                drawn = list(sampler)
            self._drawn = (self._number, [list(batch) for batch in drawn] if self._own_batches else drawn)
        return self._drawn[1]

    def _order(self) -> Sequence[Any] | Tensor:
        if self._kind == "drawn":
            return self._draw()
        length = len(self.loader.dataset)  # type: ignore[arg-type]
        return permutation(length, self.seed, self._number) if self._kind == "random" else torch.arange(length)

    def _bounds(self) -> list[tuple[int, int]]:
        """Where the global batches begin and end among the rows in the epoch's order."""
        world_size, size = self.world_size, self.loader.batch_size
        if self._own_batches:
            ends = list(itertools.accumulate(len(batch) for batch in self._draw()))
            bounds = list(zip([0, *ends[:-1]], ends, strict=True))
            for k in range(len(bounds) - 1, 0, -1):  # a batch of fewer rows than processes joins the one before it
                if bounds[k][1] - bounds[k][0] < world_size:
                    bounds[k - 1 : k + 1] = [(bounds[k - 1][0], bounds[k][1])]
            rows = ends[-1] if ends else 0
        else:
            drawn = self._kind == "drawn"
            rows = len(self._draw()) if drawn else len(self.loader.dataset)  # type: ignore[arg-type]
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

    def __iter__(self) -> Iterator[Any]:
        first = self.begin()
        bounds, order = self._bounds(), self._order()
        if self._own_batches:
            order = list(itertools.chain.from_iterable(order))
        shares = [order[start:stop][self.rank :: self.world_size] for start, stop in bounds[first:]]
        for share, (start, stop), batch in zip(shares, bounds[first:], self._batches(shares), strict=False):
            self.hand_out(len(share), of=stop - start)
            yield batch
        self.finish()

    def _batches(self, shares: list[Any]) -> Iterator[Any]:
        if self._tensors:
            pin = self.loader.pin_memory and torch.cuda.is_available()
            for rows in shares:
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


def tensors_of(loader: DataLoader[Any]) -> tuple[Tensor, ...] | None:
    """The tensors whose rows are the loader's samples, as they are: a batch of them is one index operation.

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
