"""Take over a DataLoader in any legal form, over samples with an index or a stream: exact order, shares and resume."""

import copy
import functools
import itertools
import multiprocessing.util
import operator
import signal
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, DistributedSampler, RandomSampler, SequentialSampler, get_worker_info

from src.engine.data.order import OrderedLoader, Role, RunLoader
from src.engine.data.seeding import SeededDataset, hash_seed, preserve_rng_state, seed_all
from src.engine.errors import UserError
from src.engine.lightning_fixes.trainer import EndsWorkers
from src.engine.processes import gather


class MapLoader(EndsWorkers, OrderedLoader):
    """Hands out the batches of a DataLoader over a map-style data set.

    The sampler is drawn whole at the start of an epoch, with the generators seeded by (seed, epoch).
    `batch_size` counts samples per process. The batches of a batch sampler are those of all processes together: each
    takes its rows of every batch. With `batch_size=None` an item is a batch, and the processes take items in turn. A
    LitModule weights the gradients of a step by the samples of its items, any other module weights all items alike.

    Args:
        loader: In any legal form; it is left as it is.
        role: Of this process.
    """

    def __init__(self, loader: DataLoader[Any], role: Role) -> None:
        super().__init__()
        self.loader = loader
        batched = loader.batch_sampler is not None
        self._own_batches = batched and loader.batch_size is None
        self._sampler: Any = loader.batch_sampler if self._own_batches else loader.sampler
        if type(self._sampler) is DistributedSampler:  # of the whole data: this class shares it itself
            kind = RandomSampler if self._sampler.shuffle else SequentialSampler
            self._sampler = kind(self._sampler.dataset)  # type: ignore[arg-type]
        # The batches that are still to come; workers that stay find the next epoch's here.
        self._coming: list[tuple[int, list[Any]]] = []
        seeded = SeededDataset(loader.dataset, loader.collate_fn, batched)
        samplers = {"sampler": self._coming, "batch_sampler": self._coming if batched else None}
        self._source = _copy(loader, dataset=seeded, collate_fn=seeded.collate, in_order=True, **samplers)
        self.follow(role)

    def follow(self, role: Role) -> None:
        """Serve a run; a sampler of the user's that knows its share of the data keeps it."""
        samplers = (self._sampler, getattr(self._sampler, "sampler", None))
        if any(hasattr(each, "num_replicas") for each in samplers):
            role = replace(role, rank=0, world_size=1)
        super().follow(role)

    def arrange(self, number: int) -> tuple[Any, Sequence[tuple[int, int]]]:
        """Return the samples of an epoch as they come, and where the global batches begin and end among them."""
        order = self._draw(number)
        if self._own_batches:
            batches = [list(batch) for batch in order if len(batch)]
            ends = itertools.accumulate(map(len, batches), initial=0)
            return list(itertools.chain.from_iterable(batches)), list(itertools.pairwise(ends))
        rows, size = len(order), self.loader.batch_size or 1
        if self.loader.drop_last:
            rows -= rows % (size * self.role.world_size)
        return order, self.cut(rows, size)

    def _draw(self, number: int) -> list[Any]:
        """Draw the sampler; one of the user's, which may count its epochs, also draws those before a resume."""
        sampler = self._sampler
        if self.role.keep_order and type(sampler) is RandomSampler:
            return list(range(len(sampler.data_source)))
        samplers = (sampler, getattr(sampler, "sampler", sampler))
        numbers = [number]
        counts = not all(type(each).__module__.startswith(("torch.", "builtins")) for each in samplers)
        if counts and self.role.progress and not self._plans:
            before = range(self.role.progress.first_epoch(), self.epoch)
            numbers = [*(self.number_of(0, epoch) for epoch in before), number]
        for each_number in numbers:
            seed = hash_seed(self.seed, each_number, "order")
            with preserve_rng_state():
                seed_all(seed)
                for each in (self.loader, *samplers):
                    if isinstance(generator := getattr(each, "generator", None), torch.Generator):
                        generator.manual_seed(seed)
                    if callable(set_epoch := getattr(each, "set_epoch", None)):
                        set_epoch(each_number % 2**32)  # NumPy's seeds, for example, have 32 bits
                drawn = list(sampler)
        return drawn

    def sample_indices(self, batch: int) -> Tensor:
        """Return the data set's indices of the samples in the `batch`-th batch of this rank.

        Returns:
            (B,) int64; where a sampler gives no numbers, their places in its order.
        """
        places, rows = self.places(batch), self.plan(self.number).rows
        picked = [rows[place] for place in places.tolist()]
        indices = [index for each in picked for index in (each if isinstance(each, list) else [each])]
        try:
            return torch.tensor([operator.index(index) for index in indices])
        except TypeError:
            return places

    def __iter__(self) -> Iterator[Any]:
        first = self.begin()
        rows, _, shares = self.plan(self.number)
        key = hash_seed(self.seed, self.number)
        self._coming[:] = [(key, rows[mine.start : mine.stop : mine.step]) for mine in shares[first:]]
        self._source.generator.manual_seed(hash_seed(self.seed, self.number, self.role.rank, "workers"))
        yield from self._source


def _copy(loader: DataLoader[Any], **changes: Any) -> Any:
    """Return a copy with other parts, which a loader refuses to have set; it keeps what a subclass does beside."""
    if loader.num_workers:
        multiprocessing.util.Finalize(None, _kill_workers, exitpriority=0)  # called when this process ends
        changes["worker_init_fn"] = functools.partial(_begin_worker, loader.worker_init_fn, loader.dataset)
    changes["generator"] = torch.Generator()  # without it a loader draws from the one that dropout draws from
    made = copy.copy(loader)
    made.__dict__ |= changes
    return made


class StreamLoader(EndsWorkers, RunLoader):
    """Hands out the batches of a DataLoader over an IterableDataset.

    A loader with `state_dict` (torchdata's StatefulDataLoader), or without workers a data set with it, continues
    exactly where it was. Any other stream is drawn from its start and the batches that were trained on are dropped: the
    same batches come if it is a function of its seed. Without workers the generators are seeded by (seed, epoch, batch)
    before each batch; workers are seeded by (seed, epoch, rank), and begin anew in each epoch.

    Args:
        loader: It is left as it is.
        role: Of this process; the stream has to look at its rank by itself.
    """

    def __init__(self, loader: DataLoader[Any], role: Role) -> None:
        super().__init__()
        self.follow(role)
        # Workers that stay would continue with the generators, and the data set, of the epoch before.
        self._source = _copy(loader, persistent_workers=False)
        here = loader.num_workers == 0 and callable(getattr(loader.dataset, "state_dict", None))
        # The data set itself may continue from epoch to epoch, a loader begins anew.
        self._lasting: Any = loader.dataset if here else None
        self._keeper: Any = self._source if callable(getattr(loader, "state_dict", None)) else self._lasting
        # Where the stream stood behind its latest batches. Without a length Lightning fetches one batch ahead.
        self._places: deque[dict[str, Any]] = deque(maxlen=2)
        self._loaded: dict[str, Any] | None = None

    def __len__(self) -> int:
        """Batches of an epoch, as the loader counts them; a TypeError where the stream does not know its length."""
        return len(self._source)

    def state_dict(self) -> dict[str, Any]:
        """Return where the stream of each process stood behind the batches that were trained on."""
        trained = self.role.progress.trained() if self.role.progress else 0
        places = [place for place in self._places if place["fetched"] <= trained] if trained else []
        own = places[-1] if places else {"stream": _state_of(self._lasting)}
        return {"shares": gather(own, self.role.world_size)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue at a saved place.

        Raises:
            UserError: If streams with a state were saved by another number of processes.
        """
        shares, world_size = state["shares"], self.role.world_size
        if len(shares) != world_size and any(share["stream"] is not None for share in shares):
            raise UserError(
                f"The checkpoint holds the places of {len(shares)} streams, one for each process; this run has "
                f"{world_size}. Set --trainer.devices {len(shares)}."
            )
        share = shares[self.role.rank % len(shares)]
        if "began" in share:  # within an epoch
            self._loaded = share
        elif self._lasting is not None and share["stream"] is not None:
            self._lasting.load_state_dict(share["stream"])

    def __iter__(self) -> Iterator[Any]:
        progress = self.role.progress
        fetched = progress.fetched() if progress else 0
        # Of several loaders a short one starts again before the epoch is over: each time is known by its beginning.
        place = self._loaded or {"began": fetched, "ended": False, "stream": None}
        self._loaded, self.cycle = None, place["began"]
        if progress and self.cycle:
            progress.note_exhausted(self)
        done, dropped = fetched - self.cycle, 0
        if place["stream"] is None:
            place["stream"] = _state_of(self._lasting)
            dropped = done
        elif self._keeper is self._lasting or not place["ended"]:
            self._keeper.load_state_dict(place["stream"])
        self._places.append(place | {"fetched": fetched})
        if place["ended"]:
            return
        self._source.generator.manual_seed(hash_seed(self.seed, self.number, self.role.rank, "workers"))
        for batch in itertools.islice(self._draw(done - dropped), dropped, None):
            fetched += 1
            self._places.append(place | {"fetched": fetched, "stream": _state_of(self._keeper)})
            yield batch
        self._places.append(self._places[-1] | {"ended": True, "stream": _state_of(self._keeper)})

    def _draw(self, number: int) -> Iterator[Any]:
        """Draw the batches from here on, the first of which has this number."""
        if self._source.num_workers:
            yield from self._source
            return
        iterator = None
        for k in itertools.count(number):
            with preserve_rng_state():
                seed_all(hash_seed(self.seed, self.number, self.role.rank, k))
                iterator = iter(self._source) if iterator is None else iterator
                batch = next(iterator, StopIteration)
            if batch is StopIteration:
                return
            yield batch


def _state_of(keeper: Any) -> Any:
    return None if keeper is None else copy.deepcopy(keeper.state_dict())


def _begin_worker(then: Callable[[int], Any] | None, dataset: Any, worker: int) -> None:
    """Leave a job's signals to the run, then call the user's `worker_init_fn`, which looks for the user's data set.

    A terminal's Ctrl-C, a scheduler's warning and SIGTERM go to every process of a job. Workers would die of them, and
    the run with them, before it can save.
    """
    for name in {"SIGINT", "SIGTERM", "SIGUSR1", "SIGUSR2", "SIGHUP"} & set(signal.Signals.__members__):
        # Not SIG_IGN, which a program that the worker starts would inherit.
        signal.signal(signal.Signals[name], lambda *_: None)
    object.__setattr__(get_worker_info(), "dataset", dataset)
    if then:
        then(worker)


def _kill_workers() -> None:
    """Kill the workers that an error has left: multiprocessing would send them a SIGTERM and wait for ever."""
    if hasattr(signal, "SIGCHLD"):
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # torch's handler raises an error for a killed worker
    for process in multiprocessing.active_children():
        if process.daemon:
            process.kill()
