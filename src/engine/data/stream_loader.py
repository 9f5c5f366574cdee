"""Takes over a DataLoader of a stream: resumes by the stream's own state, or by drawing and dropping."""

import copy
import sys
from collections.abc import Iterator
from typing import Any

import torch
from torch.utils.data import DataLoader

from src.engine.data.order import Role, RunLoader, hash_seed
from src.engine.data.seeding import preserve_rng_state, seed_all
from src.engine.data.workers import IgnoreSignals
from src.engine.errors import UserError
from src.engine.lightning_fixes.trainer import EndsWorkers


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
        self._source = copy.copy(loader)
        self._source.__dict__ |= {
            "worker_init_fn": IgnoreSignals(loader.worker_init_fn, loader.dataset) if loader.num_workers else None,
            "generator": torch.Generator(),
            # Workers that stay would continue with the generators, and the data set, of the epoch before.
            "persistent_workers": False,
        }
        here = loader.num_workers == 0 and callable(getattr(loader.dataset, "state_dict", None))
        # The data set itself may continue from epoch to epoch, a loader begins anew.
        self._lasting: Any = loader.dataset if here else None
        self._keeper: Any = self._source if callable(getattr(loader, "state_dict", None)) else self._lasting
        # Where the stream stood when so many batches of the epoch were fetched. Without a length Lightning fetches one
        # batch ahead, to know the last one: the two latest are kept.
        self._places: dict[int, dict[str, Any]] = {}
        self._loaded: dict[str, Any] | None = None

    def __len__(self) -> int:
        """Batches of an epoch, as the loader counts them; a TypeError where the stream does not know its length."""
        return len(self._source)

    def state_dict(self) -> dict[str, Any]:
        """Return where the stream of each process stood behind the batches that were trained on."""
        trained = self.role.progress.trained() if self.role.progress else 0
        place = max((fetched for fetched in self._places if fetched <= trained), default=None)
        own = self._places[place] if trained and place is not None else {"stream": state_of(self._lasting)}
        shares: list[Any] = [own] * self.role.world_size
        if self.role.world_size > 1:
            torch.distributed.all_gather_object(shares, own)
        return {"shares": shares}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue at a saved place.

        Raises:
            UserError: If there were streams with a state, one on each of another number of processes.
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
        skipped, stream = fetched - self.cycle, place["stream"]
        self._note(fetched, place if stream is not None else place | {"stream": state_of(self._lasting)})
        if place["ended"]:
            return
        self._source.generator.manual_seed(hash_seed(self.seed, self.number, self.role.rank, 3))
        if stream is not None:
            self._keeper.load_state_dict(stream)
            batches = self._draw(skipped)
        else:
            if skipped and self.role.rank == 0:
                said = f"the stream has no state_dict: {skipped} batches are drawn and dropped to go on with the next"
                print(said, file=sys.stderr, flush=True)
            batches = self._draw(0)
            for _ in zip(range(skipped), batches, strict=False):
                pass
        for batch in batches:
            fetched += 1
            self._note(fetched, place | {"stream": state_of(self._keeper)})
            yield batch
        self._note(fetched, self._places.get(fetched, place) | {"ended": True})

    def _note(self, fetched: int, place: dict[str, Any]) -> None:
        if self.role.progress:
            self._places = {k: each for k, each in self._places.items() if k == fetched - 1} | {fetched: place}

    def _draw(self, number: int) -> Iterator[Any]:
        """Draw the batches from here on, the first of which has this number."""
        if self._source.num_workers:
            yield from self._source
            return
        iterator = None
        while True:
            with preserve_rng_state():
                seed_all(hash_seed(self.seed, self.number, self.role.rank, number))
                iterator = iter(self._source) if iterator is None else iterator
                try:
                    batch = next(iterator)
                except StopIteration:
                    return
            number += 1
            yield batch


def state_of(keeper: Any) -> Any:
    """Return a copy of the state of what has one, else None."""
    return None if keeper is None else copy.deepcopy(keeper.state_dict())
