"""Takes over a DataLoader of a stream: resumes by the stream's own state, or by drawing and dropping."""

import copy
import hashlib
import pickle
import sys
from collections.abc import Iterator
from typing import Any

import torch
from torch.utils.data import DataLoader, IterableDataset

from src.engine.data.draws import apart, seed_all
from src.engine.data.order import RunLoader, mix
from src.engine.data.workers import Outlive
from src.engine.errors import UserError
from src.engine.lightning_fixes.parts import EndsWorkers


class StreamLoader(EndsWorkers, RunLoader):
    """Hands out the batches of a DataLoader over an IterableDataset.

    A loader with `state_dict` (torchdata's StatefulDataLoader), or without workers a data set with it, goes on exactly
    where it was. Any other stream is drawn from its start and the batches that were trained on are dropped: the same
    batches come if it is a function of its seed. Without workers the generators are seeded by (seed, epoch, batch)
    before each batch; workers are seeded by (seed, epoch, rank), and begin anew in each epoch.

    Args:
        loader: It is left as it is.
        rank: 0 to W-1.
        world_size: W; the stream has to look at its rank by itself.
    """

    def __init__(self, loader: DataLoader[Any], rank: int, world_size: int) -> None:
        super().__init__(None)
        self.share(rank, world_size)
        own = callable(getattr(loader, "state_dict", None))
        self._source = copy.copy(loader)
        self._source.__dict__ |= {
            "worker_init_fn": Outlive(loader.worker_init_fn, loader.dataset) if loader.num_workers else None,
            "generator": torch.Generator(),
            # Workers that stay would go on with the generators, and the data set, of the epoch before.
            "persistent_workers": False,
        }
        # The data set itself may go on from epoch to epoch, a loader begins anew.
        here = loader.num_workers == 0 and callable(getattr(loader.dataset, "state_dict", None))
        self._lasting: Any = loader.dataset if here else None
        self._keeper: Any = self._source if own else self._lasting
        self._compared = world_size == 1
        # Where the stream stood when so many batches of the epoch were fetched. Lightning may fetch one before the one
        # in hand is trained on, since nobody knows which is the last: the two latest are kept.
        self._places: dict[int, dict[str, Any]] = {}
        self._loaded: dict[str, Any] | None = None

    def state_dict(self) -> dict[str, Any]:
        """Return where the stream stood behind the batches that were trained on, of each process."""
        between = copy.deepcopy(self._lasting.state_dict()) if self._lasting is not None else None
        trained = self._progress.trained() if self._progress else 0
        place = max((fetched for fetched in self._places if fetched <= trained), default=None)
        own = {"place": None if place is None else self._places[place], "between_epochs": between}
        shares: list[Any] = [own] * self.world_size
        if self.world_size > 1:
            torch.distributed.all_gather_object(shares, own)
        return {key: [share[key] for share in shares] for key in own}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on at a saved place.

        Raises:
            UserError: If the stream was another one on each of another number of processes.
        """
        amid = "place" in state and self._progress is not None and self._progress.trained() > 0
        shares = state["place"] if amid else state["between_epochs"]
        streams = [(share or {}).get("stream") for share in shares] if amid else shares
        if len(shares) != self.world_size and any(stream is not None for stream in streams):
            raise UserError(
                f"The checkpoint holds the places of {len(shares)} streams, one for each process; this run has "
                f"{self.world_size}. Set --trainer.devices {len(shares)}."
            )
        mine = self.rank % len(shares)
        if amid:
            self._loaded = shares[mine]
        if self._lasting is not None and streams[mine] is not None:
            self._lasting.load_state_dict(streams[mine])

    def set_epoch(self, epoch: int) -> None:
        """Choose the seed; a place in another epoch says nothing about this one."""
        if epoch != self.epoch:
            self._loaded = None
        super().set_epoch(epoch)

    def __iter__(self) -> Iterator[Any]:
        fetched = self._progress.fetched() if self._progress else 0
        loaded, self._loaded = self._loaded, None
        # Of several loaders a short one starts again before the epoch is over: each time is known by its beginning.
        place = loaded or {"began": fetched, "stream": None, "ended": False}
        self.cycle = began = place["began"]
        if self._progress and began:
            self._progress.note_exhausted(self)
        if place["ended"]:
            self._places = {fetched: place}
            return
        stream, skipped = place["stream"], fetched - began
        self._source.generator.manual_seed(mix(self.seed, self.number, self.rank, 3))
        if stream is not None and self._lasting is None:
            self._keeper.load_state_dict(stream)
        elif skipped and stream is None and self.rank == 0:
            said = f"the stream has no state_dict: {skipped} batches are drawn and dropped to go on with the next"
            print(said, file=sys.stderr, flush=True)
        self._note(fetched, began, self._lasting if stream is None else None, stream)
        batches = self._drawn(0 if stream is None else skipped)
        for _ in zip(range(skipped if stream is None else 0), batches, strict=False):
            pass
        for batch in batches:
            self._compare(batch)
            fetched += 1
            self._note(fetched, began, self._keeper)
            yield batch
        if fetched in self._places:
            self._places[fetched] = self._places[fetched] | {"ended": True}

    def _note(self, fetched: int, began: int, keeper: Any, stream: Any = None) -> None:
        """Keep the place behind a batch."""
        if self._progress:
            state = copy.deepcopy(keeper.state_dict()) if keeper is not None else stream
            latest = [(number, place) for number, place in self._places.items() if number in (fetched - 1, fetched)]
            self._places = dict(latest) | {fetched: {"began": began, "stream": state, "ended": False}}

    def _compare(self, batch: Any) -> None:
        """Say so before the first step if two processes got the same batch."""
        if self._compared or not torch.distributed.is_initialized():
            return
        self._compared = True
        digests: list[Any] = [None] * self.world_size
        torch.distributed.all_gather_object(digests, hashlib.sha256(pickle.dumps(batch)).hexdigest())
        if len(set(digests)) < self.world_size and self.rank == 0:
            name = type(self._source.dataset).__name__
            print(
                f"warning: the {self.world_size} processes got the same batch from {name}: a stream has to look at its "
                "rank. In its __iter__ give each process its part: itertools.islice(samples, "
                "torch.distributed.get_rank(), None, torch.distributed.get_world_size()).",
                file=sys.stderr,
                flush=True,
            )

    def _drawn(self, first: int) -> Iterator[Any]:
        if self._source.num_workers:
            yield from self._source
            return
        iterator, number = None, first
        while True:
            with apart():
                seed_all(mix(self.seed, self.number, self.rank, number))
                iterator = iter(self._source) if iterator is None else iterator
                try:
                    batch = next(iterator)
                except StopIteration:
                    return
            number += 1
            yield batch


class SizedStreamLoader(StreamLoader):
    """Of a stream that knows its length: then Lightning fetches no batch in advance."""

    def __len__(self) -> int:
        """Batches of an epoch, as the loader counts them."""
        return len(self._source)


def take_over(loader: DataLoader[Any], rank: int, world_size: int) -> StreamLoader:
    """The one or the other.

    Args:
        loader: Over an IterableDataset.
        rank: 0 to W-1.
        world_size: W.
    """
    dataset: IterableDataset[Any] = loader.dataset  # type: ignore[assignment]
    return (SizedStreamLoader if hasattr(dataset, "__len__") else StreamLoader)(loader, rank, world_size)
