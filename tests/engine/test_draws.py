"""What a data set or a collate function draws is a function of (seed, epoch, index)."""

import itertools
import os
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
DRAWS = {
    "torch": lambda: torch.rand((), dtype=torch.float64).item(),
    "numpy": lambda: float(np.random.normal()),
    "python": random.random,
}


class Noise(Dataset[Any]):
    """Its index, and a number from each of some generators; writes down whom it was asked for, by which process.

    Args:
        names: Of the generators.
        only: The indices that draw.
        log: A file.
    """

    def __init__(self, names: tuple[str, ...] = tuple(DRAWS), only: Any = range(N), log: Any = None) -> None:
        self.names, self.only, self.log = names, only, log

    def __len__(self) -> int:
        return N

    def __getitem__(self, index: int) -> torch.Tensor:
        if self.log:
            with self.log.open("a") as file:
                file.write(f"{os.getpid()} {index}\n")
        drawn = [DRAWS[name]() if index in self.only else 0.0 for name in self.names]
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


SOME = {"numpy": Noise(("numpy",)), "some": Noise(only=(0, 7, 13)), "ready batches": Ready(), "chain": Chain()}


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
@pytest.mark.parametrize("context", ["spawn", "forkserver"])
def test_workers_that_are_not_forked_draw_the_same(context):
    made = take_over(Noise(), workers=2, multiprocessing_context=context)
    assert epoch(made, 1) == epoch(take_over(Noise()), 1)


def test_ranks_and_a_resume_draw_the_same():
    whole = epoch(take_over(Noise()))
    ranks = [epoch(MapLoader(DataLoader(Noise(), 4, True), Role(rank=rank, world_size=3))) for rank in range(3)]
    assert ranks[0] | ranks[1] | ranks[2] == whole
    rest = epoch(behind(take_over(Noise(), seed=7), 3))
    assert len(rest) == N - 12
    assert rest.items() <= whole.items()


def noisy(samples: list[torch.Tensor]) -> torch.Tensor:
    """Noise for the samples themselves, and for the batch."""
    for sample in samples:
        sample += torch.rand(())
    return default_collate(samples) + np.random.rand() + random.random()


@pytest.mark.parametrize("dataset", [Noise(), Noise(only=())], ids=["drawing", "plain"])
def test_a_collate_function_draws_by_seed_epoch_and_batch(dataset):
    def batches(workers: int, number: int) -> list[torch.Tensor]:
        made = take_over(dataset, workers=workers, collate_fn=noisy)
        made.set_epoch(number)
        return list(made)

    first = batches(0, 0)
    assert all(torch.equal(a, b) for a, b in zip(first, batches(2, 0), strict=True))
    assert not torch.equal(first[0], batches(0, 1)[0])
    assert len({float(batch[0, 0] % 1) for batch in first}) == len(first)


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("only", [(), range(N)], ids=["plain", "drawing"])
def test_each_worker_makes_one_batch_twice_if_samples_draw(only, workers, tmp_path):
    log = tmp_path / "log"
    made = take_over(Noise(only=only, log=log), workers=workers, persistent_workers=workers > 0)
    epoch(made, 0), epoch(made, 1)
    made._iterator = None
    processes = {line.split()[0] for line in log.read_text().splitlines()}
    assert len(processes) == max(workers, 1)
    assert (str(os.getpid()) in processes) == (workers == 0)
    assert len(log.read_text().splitlines()) == 2 * N + (4 * len(processes) if only else 0)


class Broken:
    def __eq__(self, other: object) -> bool:
        raise RuntimeError("Unknown index")

    __hash__ = None  # type: ignore[assignment]


def test_the_generators_are_as_they_were_after_a_batch_and_after_an_error():
    torch.manual_seed(4), random.seed(4), np.random.seed(4)
    random.gauss(0, 1), np.random.normal()  # each keeps a second number for later
    seeded = SeededDataset(Noise(), noisy)
    before = states()
    for _ in range(2):
        seeded.collate((1, [2, 3]))
        assert states() == before
    with pytest.raises(RuntimeError, match="Unknown index"):
        seeded.collate((1, [2, Broken()]))
    assert states() == before


class Columns(Noise):
    """Makes batches that are no lists, for a collate function that leaves them as they are."""

    def __getitems__(self, indices: list[int]) -> dict[str, torch.Tensor]:
        return {"rows": torch.stack([self[index] for index in indices])}


@pytest.mark.parametrize("only", [(), range(N)], ids=["plain", "drawing"])
def test_a_batch_that_a_data_set_makes_as_a_whole_stays_as_it_is(only):
    def rows(workers: int) -> torch.Tensor:
        made = take_over(Columns(only=only), workers=workers, collate_fn=lambda batch: batch)
        return torch.cat([batch["rows"] for batch in made])

    first = rows(0)
    assert sorted(first[:, 0].tolist()) == list(range(N))
    assert torch.equal(first, rows(2))
    assert len(first[:, 1].unique()) == (N if only else 1)


def test_an_index_counts_by_its_number_whatever_its_type():
    def drawn(index: Any) -> list[float]:
        return SeededDataset(Noise(), default_collate).collate((1, [index]))[0].tolist()

    assert drawn(3) == drawn(np.int64(3)) == drawn(torch.tensor(3)) != drawn(4)
