"""What a data set or a collate function draws is a function of (seed, epoch, index)."""

import itertools
import random
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, Dataset, default_collate

from src.engine.data.loaders import MapLoader
from src.engine.data.order import Role
from src.engine.data.seeding import SeededDataset
from tests.engine.test_map_loader import states
from tests.stopping import behind

N = 20
DRAWS = (lambda: torch.rand((), dtype=torch.float64).item(), lambda: float(np.random.normal()), random.random)


class Noise(Dataset[Any]):
    """Its index, and a number from each generator where the index is one of those that draw."""

    def __init__(self, only: Any = range(N)) -> None:
        self.only = only

    def __len__(self) -> int:
        return N

    def __getitem__(self, index: int) -> torch.Tensor:
        drawn = [draw() if index in self.only else 0.0 for draw in DRAWS]
        return torch.tensor([index, *drawn], dtype=torch.float64)


class Ready(Noise):
    def __getitems__(self, indices: list[int]) -> list[torch.Tensor]:
        return [self[index] for index in indices]


class Chain(Noise):
    """Draws from one generator only where another gave a large number, as a transform applied with a probability."""

    def __getitem__(self, index: int) -> torch.Tensor:
        first = random.random()
        second = np.random.rand() if first > 0.5 else 0.0
        third = torch.rand((), dtype=torch.float64).item() if second > 0.5 else 0.0
        return torch.tensor([index, first, second, third], dtype=torch.float64)


def take_over(dataset: Any, size: int | None = 4, workers: int = 0, seed: int = 0, **options: Any) -> MapLoader:
    torch.manual_seed(seed)
    return MapLoader(DataLoader(dataset, size, True, num_workers=workers, **options), Role())


def epoch(made: MapLoader, number: int = 0) -> dict[int, list[float]]:
    """What was drawn, by index."""
    made.set_epoch(number)
    batches = [batch.reshape(-1, batch.shape[-1]).tolist() for batch in made]
    return {int(index): drawn for index, *drawn in itertools.chain.from_iterable(batches)}


SOME = {"some of ready batches": Ready(only=(0, 7, 13)), "chain": Chain()}


@pytest.mark.parametrize("dataset", SOME.values(), ids=SOME)
def test_a_sample_draws_by_seed_epoch_and_index(dataset):
    first, second = epoch(take_over(dataset), 0), epoch(take_over(dataset), 1)
    for size, workers in ((7, 0), (None, 0), (4, 2)):
        other = take_over(dataset, size, workers)
        assert [epoch(other, number) for number in (0, 1)] == [first, second]
    drawn = [drawn[0] for each in (first, second) for index, drawn in each.items() if index in dataset.only]
    assert len(set(drawn)) == len(drawn)
    assert epoch(take_over(dataset, seed=1)) != first


@pytest.mark.slow
def test_workers_that_are_not_forked_draw_the_same():
    made = take_over(Noise(), workers=2, multiprocessing_context="spawn")
    assert epoch(made, 1) == epoch(take_over(Noise()), 1)


def test_ranks_and_a_resume_draw_the_same():
    whole = epoch(take_over(Noise()))
    ranks = [epoch(MapLoader(DataLoader(Noise(), 4, True), Role(rank=rank, world_size=3))) for rank in range(3)]
    assert ranks[0] | ranks[1] | ranks[2] == whole
    rest = epoch(behind(take_over(Noise(), seed=7), 3))
    assert len(rest) == N - 12
    assert rest.items() <= whole.items()
    tested = MapLoader(DataLoader(Noise(), 4), Role(stage="test"))
    assert epoch(tested, 0) == epoch(tested, 1) != whole  # an evaluation draws the same each time


def noisy(samples: list[torch.Tensor]) -> torch.Tensor:
    """Noise for the samples themselves, and for the batch."""
    for sample in samples:
        sample += torch.rand(())
    return default_collate(samples) + np.random.rand() + random.random()


@pytest.mark.parametrize("dataset", [Noise(), Noise(only=())], ids=["drawing", "plain"])
def test_a_collate_function_draws_by_seed_epoch_and_batch(dataset):
    found = []
    for workers, number in ((0, 0), (2, 0), (0, 1)):
        made = take_over(dataset, workers=workers, collate_fn=noisy)
        made.set_epoch(number)
        found.append(list(made))
    assert all(torch.equal(a, b) for a, b in zip(found[0], found[1], strict=True))
    assert not torch.equal(found[0][0], found[2][0])
    assert len({float(batch[0, 0] % 1) for batch in found[0]}) == len(found[0])


def test_the_generators_are_as_they_were_after_a_batch():
    torch.manual_seed(4), random.seed(4), np.random.seed(4)
    random.gauss(0, 1)  # keeps a second number for later
    seeded = SeededDataset(Noise(), noisy)
    before = states()
    for _ in range(2):
        seeded.collate((1, [2, 3]))
        assert states() == before


class Columns(Noise):
    """Makes batches that are no lists, for a collate function that leaves them as they are."""

    def __getitems__(self, indices: list[int]) -> dict[str, torch.Tensor]:
        return {"rows": torch.stack([self[index] for index in indices])}


def test_a_batch_that_a_data_set_makes_as_a_whole_stays_as_it_is():
    made = [take_over(Columns(), workers=workers, collate_fn=lambda batch: batch) for workers in (0, 2)]
    alone, by_workers = (torch.cat([batch["rows"] for batch in each]) for each in made)
    assert sorted(alone[:, 0].tolist()) == list(range(N))
    assert torch.equal(alone, by_workers)
    assert len(alone[:, 1].unique()) == N


def test_an_index_counts_by_its_number_whatever_its_type():
    three, *others = (
        SeededDataset(Noise(), default_collate).collate((1, [k])) for k in (3, np.int64(3), torch.tensor(3))
    )
    assert all(torch.equal(three, other) for other in others)
