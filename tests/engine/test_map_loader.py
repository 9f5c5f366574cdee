"""What a DataLoader hands out, and its samples draw, is a function of seed, epoch, rank and position in each form."""

import itertools
import random
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import BatchSampler, DataLoader, Dataset, DistributedSampler, RandomSampler, Subset, TensorDataset

from src.engine.data.loaders import MapLoader
from src.engine.data.order import Role
from tests.engine.loader_tasks import Buckets, weighted
from tests.stopping import behind

N = 23


class Numbers(Dataset[torch.Tensor]):
    """Each sample is its index."""

    def __len__(self) -> int:
        return N

    def __getitem__(self, index: Any) -> torch.Tensor:
        return torch.as_tensor(index)


class Own(DataLoader[Any]):
    def __iter__(self):
        for batch in super().__iter__():
            yield batch.flip(0)


class Turns(list[int]):
    """A sampler that starts at the row that has the number of the epoch."""

    def set_epoch(self, epoch: int) -> None:
        self.sort(key=lambda row: (row - epoch) % N)


# Each makes a new loader of a batch size.
EACH_ONCE = {
    "plain": lambda size: DataLoader(Numbers(), batch_size=size, shuffle=True),
    "in order": lambda size: DataLoader(Numbers(), size),
    "subclass": lambda size: Own(Numbers(), size, shuffle=True),
    "permutation": lambda size: DataLoader(Numbers(), size, sampler=np.random.default_rng(0).permutation(N)),
    "distributed": lambda size: DataLoader(Numbers(), size, sampler=DistributedSampler(Numbers(), 2, 1)),
    "tensors": lambda size: DataLoader(Subset(TensorDataset(torch.arange(-5, 30)), range(5, N + 5)), size, True),
}
# One process has the batches that several have together.
OWN_BATCHES = {"buckets": lambda size: DataLoader(Numbers(), batch_sampler=Buckets(N, 6))}
OTHERS = {
    "sampler of batches": lambda size: DataLoader(Numbers(), None, sampler=BatchSampler(weighted(24), 4, False)),
    "no batches": lambda size: DataLoader(Numbers(), None, True),
    "weighted": lambda size: DataLoader(Numbers(), size, sampler=weighted(N)),
    "with replacement": lambda size: DataLoader(Numbers(), size, sampler=RandomSampler(Numbers(), True, 40)),
    "fewer": lambda size: DataLoader(Numbers(), size, sampler=RandomSampler(Numbers(), num_samples=17)),
    "generator": lambda size: DataLoader(Numbers(), size, sampler=RandomSampler(Numbers(), True, 9, torch.Generator())),
    "drop_last": lambda size: DataLoader(Numbers(), size, True, drop_last=True),
}
FORMS = EACH_ONCE | OWN_BATCHES | OTHERS


def take_over(form: str, rank: int = 0, world_size: int = 1, size: int = 4, seed: int = 0, **role: Any) -> MapLoader:
    torch.manual_seed(seed)
    return MapLoader(FORMS[form](size), Role(rank=rank, world_size=world_size, **role))


def rows(batch: Any) -> list[int]:
    return torch.as_tensor(batch[0] if isinstance(batch, list) else batch).flatten().tolist()


def batches(made: MapLoader, number: int = 0) -> list[Any]:
    """The batches of an epoch; the generators of the process are left alone."""
    made.set_epoch(number)
    before = states()
    found = list(made)
    assert states() == before
    return found


def epoch(made: MapLoader, number: int = 0) -> list[list[int]]:
    return [rows(batch) for batch in batches(made, number)]


def flat(parts: Any) -> list[Any]:
    return list(itertools.chain.from_iterable(parts))


def states() -> list[Any]:
    numpy_state = str(np.random.get_state(legacy=False))
    return [torch.get_rng_state().tolist(), random.getstate(), numpy_state, torch.initial_seed()]


@pytest.mark.parametrize("form", FORMS)
def test_batches_are_a_function_of_seed_and_epoch(form):
    one, other = take_over(form), take_over(form)
    epochs = [epoch(one, number) for number in (0, 1)]
    random.seed(3), np.random.seed(3)
    assert [epoch(other, number) for number in (1, 0)] == epochs[::-1]
    assert len(one) == len(epochs[1])
    if form not in {"in order", "permutation"}:
        assert epochs[0] != epochs[1]
        assert epoch(take_over(form, seed=1)) != epochs[0]
    if form not in OTHERS:
        assert sorted(flat(epochs[1])) == list(range(N))


@pytest.mark.parametrize("form", FORMS)
def test_a_new_process_continues_with_the_next_batch(form):
    whole = epoch(behind(take_over(form, 1, 2), 0), 2)
    for done in {1, len(whole) - 1}:
        resumed = behind(take_over(form, 1, 2, seed=7), done)
        assert epoch(resumed, 2) == whole[done:]
        assert epoch(behind(resumed, 0), 3) == epoch(behind(take_over(form, 1, 2), 0), 3)


def test_a_sampler_of_the_users_decides_what_comes():
    assert all(row % 3 for row in flat(epoch(take_over("weighted"))))
    assert flat(epoch(take_over("permutation"))) == np.random.default_rng(0).permutation(N).tolist()
    for world_size, number in ((1, 5), (2, 2)):
        assert [len(batch) for batch in epoch(take_over("drop_last", 0, world_size))] == [4] * number
    assert (len(flat(epoch(take_over("with replacement")))), len(set(flat(epoch(take_over("fewer")))))) == (40, 17)
    assert [batch[::-1] for batch in epoch(take_over("subclass"))] == epoch(take_over("plain"))
    turns = MapLoader(DataLoader(Numbers(), 4, sampler=Turns(range(N))), Role())
    assert [epoch(turns, number)[0] for number in (0, 5)] == [[0, 1, 2, 3], [5, 6, 7, 8]]


def test_a_loader_that_starts_again_within_an_epoch_has_another_order_each_time():
    first, second, third = (epoch(behind(take_over("plain"), done)) for done in (0, 6, 12))
    assert sorted(flat(second)) == list(range(N))
    assert first != second != third != first
    assert epoch(behind(take_over("plain"), 8)) == second[2:]
    assert epoch(behind(take_over("plain"), 8, cycles=False)) == []
    beside = behind(take_over("plain"), 0)  # two loaders of one length pair other rows in each epoch
    beside.follow(replace(beside.role, number=1))
    assert epoch(beside) != first


@pytest.mark.parametrize("form", EACH_ONCE | OWN_BATCHES)
def test_the_ranks_together_have_the_batches_of_one(form):
    one = epoch(take_over(form, size=6), 1)
    ranks = [epoch(take_over(form, rank, 3, size=2), 1) for rank in range(3)]
    combined = [sorted(flat(parts)) for parts in zip(*ranks, strict=True)]
    assert combined == [sorted(batch) for batch in one]


@pytest.mark.parametrize("world_size", [3, 5, 11])
@pytest.mark.parametrize("form", ["plain", "buckets", "no batches"])
def test_a_rest_is_shared_by_the_ranks(form, world_size):
    # An evaluation has each sample once, in batches that are not too large and, if they are of several, as many.
    tested = [epoch(take_over(form, rank, world_size, size=2, stage="test")) for rank in range(world_size)]
    assert sorted(flat(flat(tested))) == list(range(N))
    assert max(map(len, flat(tested))) <= 2
    assert form != "plain" or len(set(map(len, tested))) == 1
    # In training a process without a row has one that weighs nothing.
    ranks = [take_over(form, rank, world_size, size=2, stage="train") for rank in range(world_size)]
    seen = []
    for batch, parts in enumerate(zip(*ranks, strict=True)):
        each = [torch.tensor(rows(part), dtype=torch.float64) for part in parts]
        weights = [made.weight_of(batch) for made in ranks]
        real = torch.cat([part for part, weight in zip(each, weights, strict=True) if weight])
        weighted = sum(part.mean() * weight for part, weight in zip(each, weights, strict=True)) / world_size
        assert torch.isclose(weighted, real.mean(), rtol=1e-12)
        seen += real.int().tolist()
    assert sorted(seen) == list(range(N))


class Mine(DistributedSampler[Any]):
    """Whoever writes one has it know its share."""


def test_a_sampler_that_knows_its_share_keeps_it():
    for options in (
        lambda rank: {"sampler": Mine(Numbers(), 2, rank)},
        lambda rank: {"batch_sampler": BatchSampler(DistributedSampler(Numbers(), 2, rank), 1, False)},
    ):
        loaders = [DataLoader(Numbers(), **options(rank)) for rank in range(2)]
        ranks = [epoch(MapLoader(each, Role(rank=k, world_size=2))) for k, each in enumerate(loaders)]
        assert set(flat(flat(ranks))) == set(range(N))
        assert len(flat(flat(ranks))) == N + 1  # torch's pads


def test_batches_of_tensors_are_the_bare_loaders_and_no_sample_is_asked_for(monkeypatch):
    tensors = (torch.randn(N, 2), torch.arange(N), torch.rand(N, 3, 2, dtype=torch.float64))
    dataset = TensorDataset(*tensors)
    for source in (dataset, Subset(Subset(dataset, range(20)), np.arange(3, 17))):
        bare = list(DataLoader(source, 4))
        with monkeypatch.context() as patch:
            patch.setattr("src.engine.data.seeding.SeededDataset._fetch", None)
            ours = list(MapLoader(DataLoader(source, 4), Role()))
        for batch, expected in zip(ours, bare, strict=True):
            assert type(batch) is type(expected)
            for value, other in zip(batch, expected, strict=True):
                assert (value.dtype, value.is_contiguous()) == (other.dtype, True)
                assert torch.equal(value, other)


def test_workers_change_nothing_and_stay_if_they_are_to():
    alone = take_over("plain")
    torch.manual_seed(0)
    loader = DataLoader(Numbers(), 4, True, num_workers=2, persistent_workers=True, prefetch_factor=4)
    before = dict(vars(loader))
    made = MapLoader(loader, Role())
    for number in (0, 1):
        assert epoch(made, number) == epoch(alone, number)
    # One left early, as a limit of batches does, is followed by a whole one.
    next(iter(made))
    assert epoch(made, 1) == epoch(alone, 1)
    made._iterator = None  # as Lightning does at the end: else the workers stay until the garbage is collected
    assert vars(loader) == before


def test_an_order_that_is_kept_is_the_datas_and_each_epochs():
    made = MapLoader(DataLoader(Numbers(), 4, True), Role(keep_order=True))
    assert flat(epoch(made, 0)) == flat(epoch(made, 1)) == list(range(N))
    made = MapLoader(DataLoader(Numbers(), 4, sampler=weighted(N)), Role(keep_order=True))
    assert epoch(made, 0) == epoch(made, 1)


DRAWS = (lambda: torch.rand((), dtype=torch.float64).item(), lambda: float(np.random.normal()), random.random)


class Noise(Numbers):
    """Its index, and a number from each generator where the index is one of those that draw."""

    only: Any = range(N)

    def __getitem__(self, index: Any) -> torch.Tensor:
        drawn = [draw() if index in self.only else 0.0 for draw in DRAWS]
        return torch.tensor([index, *drawn], dtype=torch.float64)


class Some(Noise):
    """Makes lists of samples, few of which draw."""

    only = (0, 7, 13)

    def __getitems__(self, indices: list[int]) -> list[torch.Tensor]:
        return [self[index] for index in indices]


class Chain(Noise):
    """Draws from one generator only where another gave a large number, as a transform applied with a probability."""

    def __getitem__(self, index: int) -> torch.Tensor:
        first = random.random()
        second = np.random.rand() if first > 0.5 else 0.0
        third = torch.rand((), dtype=torch.float64).item() if second > 0.5 else 0.0
        return torch.tensor([index, first, second, third], dtype=torch.float64)


class Columns(Noise):
    def __getitems__(self, indices: list[int]) -> dict[str, torch.Tensor]:
        return {"rows": torch.stack([self[index] for index in indices])}


def noise(dataset: Any, size: int | None = 4, workers: int = 0, seed: int = 0, **options: Any) -> MapLoader:
    torch.manual_seed(seed)
    return MapLoader(DataLoader(dataset, size, True, num_workers=workers, **options), Role())


def drawn(made: MapLoader, number: int = 0) -> dict[int, list[float]]:
    found = [batch.reshape(-1, batch.shape[-1]).tolist() for batch in batches(made, number)]
    return {int(index): values for index, *values in flat(found)}


@pytest.mark.parametrize("dataset", [Some(), Chain()])
def test_a_sample_draws_by_seed_epoch_and_index(dataset):
    first, second = drawn(noise(dataset), 0), drawn(noise(dataset), 1)
    for size, workers in ((7, 0), (None, 0), (4, 2)):
        other = noise(dataset, size, workers)
        assert [drawn(other, number) for number in (0, 1)] == [first, second]
    values = [values[0] for each in (first, second) for index, values in each.items() if index in dataset.only]
    assert len(set(values)) == len(values)
    assert drawn(noise(dataset, seed=1)) != first


@pytest.mark.slow
def test_workers_that_are_not_forked_draw_the_same():
    made = noise(Noise(), workers=2, multiprocessing_context="spawn")
    assert drawn(made, 1) == drawn(noise(Noise()), 1)


def test_ranks_and_a_resume_draw_the_same():
    whole = drawn(noise(Noise()))
    ranks = [drawn(MapLoader(DataLoader(Noise(), 4, True), Role(rank=rank, world_size=3))) for rank in range(3)]
    assert ranks[0] | ranks[1] | ranks[2] == whole
    rest = drawn(behind(noise(Noise(), seed=7), 3))
    assert len(rest) == N - 12
    assert rest.items() <= whole.items()
    tested = MapLoader(DataLoader(Noise(), 4, sampler=np.arange(N)), Role(stage="test"))
    assert drawn(tested, 0) == drawn(tested, 1) != whole  # an evaluation draws the same each time
    indices = MapLoader(DataLoader(Noise(), 4, sampler=list(torch.arange(N))), Role(stage="test"))
    assert drawn(indices) == drawn(tested)  # whatever the type of an index


def noisy(samples: list[torch.Tensor]) -> torch.Tensor:
    for sample in samples:
        sample += torch.rand(())
    return torch.stack(samples) + np.random.rand() + random.random()


@pytest.mark.parametrize("only", [range(N), ()])
def test_a_collate_function_draws_by_seed_epoch_and_batch(only, monkeypatch):
    monkeypatch.setattr(Noise, "only", only)
    one, by_workers, later = (
        batches(noise(Noise(), workers=workers, collate_fn=noisy), number)
        for workers, number in ((0, 0), (2, 0), (0, 1))
    )
    assert torch.equal(torch.cat(one), torch.cat(by_workers))
    assert not torch.equal(one[0], later[0])
    assert len({float(batch[0, 0] % 1) for batch in one}) == len(one)


def test_a_batch_that_a_data_set_makes_as_a_whole_stays_as_it_is():
    made = [batches(noise(Columns(), workers=workers, collate_fn=lambda batch: batch)) for workers in (0, 2)]
    alone, by_workers = (torch.cat([batch["rows"] for batch in each]) for each in made)
    assert sorted(alone[:, 0].tolist()) == list(range(N))
    assert torch.equal(alone, by_workers)
    assert len(alone[:, 1].unique()) == N
