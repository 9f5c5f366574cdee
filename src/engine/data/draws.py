"""What is drawn for a sample is a function of (seed, epoch, index): the same on any worker and any process."""

import functools
import operator
import random
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch.utils.data import get_worker_info

from src.engine.data.order import mix

Place = tuple[int, Any]  # a number for (seed, epoch), and the index of a sample, most often an int

PROBE = 17
_number = torch.empty((), dtype=torch.int64)
_SPARE = np.random.MT19937(0)  # one that np.random.seed takes, whatever the run's own is


def _torch_draw() -> int:
    return int(_number.random_(generator=torch.default_generator))


# How each generator is seeded, and how one number is drawn from it. torch.manual_seed would take 309 us, not 2.
GENERATORS: dict[str, tuple[Callable[[int], Any], Callable[[], Any]]] = {
    "torch": (torch.default_generator.manual_seed, _torch_draw),
    "numpy": (np.random.seed, np.random.random),
    "python": (random.seed, random.random),
}


@contextmanager
def apart() -> Iterator[None]:
    """Leave the generators of this process as they were: in a worker they are nobody's, here they are the run's."""
    if get_worker_info() is not None:
        yield
        return
    torch_state, python_state, numpy_state, numpy_generator = (
        torch.default_generator.get_state(),
        random.getstate(),
        np.random.get_state(legacy=False),  # with the second number of np.random.normal, which it keeps for later
        np.random.get_bit_generator(),  # type: ignore[attr-defined]
    )
    np.random.set_bit_generator(_SPARE)  # type: ignore[attr-defined]
    try:
        yield
    finally:
        torch.default_generator.set_state(torch_state)
        random.setstate(python_state)
        np.random.set_bit_generator(numpy_generator)  # type: ignore[attr-defined]
        np.random.set_state(numpy_state)


def seed_all(number: int) -> None:
    """Seed the three generators that samples are drawn from."""
    for seed, _ in GENERATORS.values():
        seed(number)


def _as_number(index: Any) -> int:
    try:
        return operator.index(index)  # of an int, NumPy's, a tensor's: one number is one sample
    except TypeError:
        return zlib.crc32(repr(index).encode())


@functools.cache
def _first_draws() -> dict[str, Any]:
    """What each generator gives first after the seed PROBE."""
    with apart():
        seed_all(PROBE)
        return {name: draw() for name, (_, draw) in GENERATORS.items()}


class Seeded:
    """A data set and its collate function whose random numbers are functions of (seed, epoch, index).

    Seeding three generators for each sample costs more than many samples do, and most draw nothing. So a batch is
    fetched after the generators got a known state; one that is not in that state afterwards was drawn from. Then the
    batch is fetched again with that generator seeded for each sample, and so from then on: once per worker a batch is
    fetched twice. A batch that a data set makes as a whole is drawn for its first sample. What draws from a generator
    object of its own is not seen.

    Args:
        dataset: Map-style.
        collate_fn: Of its loader.
    """

    def __init__(self, dataset: Any, collate_fn: Callable[[Any], Any]) -> None:
        self.dataset = dataset
        self.collate_fn = collate_fn
        self._drawn: list[str] = []  # by samples
        self._collate_draws = False
        self._places: list[Place] = []
        self._one = False  # Whether they are one that a loader makes no batch of.
        self._whole = False  # Whether the data set makes batches that are no lists of samples.

    def __getitem__(self, place: Place) -> Any:
        """A sample, where a loader makes no batches."""
        self._places, self._one = [place], True
        return self._fetch()

    def __getitems__(self, places: list[Place]) -> Any:
        """The samples of a batch."""
        self._places, self._one = places, False
        return self._fetch()

    def _fetch(self) -> Any:
        # As torch's own fetcher does it: some data sets have a batch ready.
        many = None if self._one else getattr(self.dataset, "__getitems__", None)
        with apart():
            while True:
                seed_all(PROBE)
                samples = self._samples(many)
                if not (new := self._drawn_from(set(GENERATORS) - set(self._drawn))):
                    return samples[0] if self._one else samples
                self._drawn += new

    def _samples(self, many: Callable[[list[Any]], Any] | None) -> Any:
        if many and (self._whole or not self._drawn):
            self._seed(self._places[0])
            samples = many([index for _, index in self._places])
            self._whole = not isinstance(samples, list | tuple)
            return samples
        samples = []
        for place in self._places:
            self._seed(place)
            samples.append(many([place[1]])[0] if many else self.dataset[place[1]])
        return samples

    def _seed(self, place: Place) -> None:
        for name in self._drawn:
            GENERATORS[name][0](mix(place[0], _as_number(place[1])))

    @staticmethod
    def _drawn_from(names: Iterable[str]) -> list[str]:
        return [name for name in names if GENERATORS[name][1]() != _first_draws()[name]]

    def collate(self, samples: Any) -> Any:
        """Make a batch of samples; what is drawn here is a function of the batch's first sample."""
        with apart():
            if not self._collate_draws:
                seed_all(PROBE)
                batch = self.collate_fn(samples)
                if not self._drawn_from(GENERATORS):
                    return batch
                self._collate_draws = True
                # It may have changed them.
                samples = self._fetch()
            key, index = self._places[0]
            seed_all(mix(key, _as_number(index), 1))
            return self.collate_fn(samples)
