"""A DataLoader of samples in each legal form: what it hands out is a function of (seed, epoch), rank and position."""

import itertools
import random
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    Dataset,
    DistributedSampler,
    RandomSampler,
    Sampler,
    Subset,
    TensorDataset,
)

from src.engine.data.loaders import MapLoader
from src.engine.data.order import Role
from tests.engine.loader_tasks import Buckets, weighted
from tests.stopping import behind

N = 23


class Numbers(Dataset[torch.Tensor]):
    """Each sample is its index."""

    def __init__(self, length: int = N) -> None:
        self.length = length

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: Any) -> torch.Tensor:
        return torch.as_tensor(index)


class Own(DataLoader[Any]):
    def __iter__(self):
        for batch in super().__iter__():
            yield batch + 0


class Turns(Sampler[int]):
    """Starts at the row that has the number of the epoch."""

    first = 0

    def set_epoch(self, epoch: int) -> None:
        self.first = epoch

    def __len__(self) -> int:
        return N

    def __iter__(self):
        return iter([*range(self.first, N), *range(self.first)])


# Each makes a new loader of a batch size.
EACH_ONCE = {
    "plain": lambda size: DataLoader(Numbers(), batch_size=size, shuffle=True),
    "in order": lambda size: DataLoader(Numbers(), size),
    "subclass": lambda size: Own(Numbers(), size, shuffle=True),
    "permutation": lambda size: DataLoader(Numbers(), size, sampler=np.random.default_rng(0).permutation(N)),
    "distributed": lambda size: DataLoader(Numbers(), size, sampler=DistributedSampler(Numbers(), 2, 1)),
    "tensors": lambda size: DataLoader(TensorDataset(torch.arange(N)), size, True),
    "subset of tensors": lambda size: DataLoader(Subset(TensorDataset(torch.arange(-5, 30)), range(5, N + 5)), size),
}
# One process has the batches that several have together.
OWN_BATCHES = {"buckets": lambda size: DataLoader(Numbers(), batch_sampler=Buckets(N, 6))}
OTHERS = {
    "sampler of batches": lambda size: DataLoader(Numbers(), None, sampler=BatchSampler(weighted(24), 4, False)),
    "weighted": lambda size: DataLoader(Numbers(), size, sampler=weighted(N)),
    "with replacement": lambda size: DataLoader(Numbers(), size, sampler=RandomSampler(Numbers(), True, 40)),
    "fewer": lambda size: DataLoader(Numbers(), size, sampler=RandomSampler(Numbers(), num_samples=17)),
    "generator": lambda size: DataLoader(Numbers(), size, sampler=RandomSampler(Numbers(), True, 9, torch.Generator())),
    "drop_last": lambda size: DataLoader(Numbers(), size, True, drop_last=True),
}
FORMS = EACH_ONCE | OWN_BATCHES | OTHERS


def take_over(form: str, rank: int = 0, world_size: int = 1, size: int = 4, seed: int = 0) -> MapLoader:
    torch.manual_seed(seed)
    return MapLoader(FORMS[form](size), Role(rank=rank, world_size=world_size))


def rows(batch: Any) -> list[int]:
    """The indices of its samples."""
    return torch.as_tensor(batch[0] if isinstance(batch, list) else batch).flatten().tolist()


def epoch(made: MapLoader, number: int = 0) -> list[list[int]]:
    made.set_epoch(number)
    return [rows(batch) for batch in made]


def flat(batches: Any) -> list[int]:
    return list(itertools.chain.from_iterable(batches))


def states() -> list[Any]:
    numpy_state = str(np.random.get_state(legacy=False))
    return [torch.get_rng_state().tolist(), random.getstate(), numpy_state, torch.initial_seed()]


@pytest.mark.parametrize("form", FORMS)
def test_batches_are_a_function_of_seed_and_epoch(form):
    one, other = take_over(form), take_over(form)
    epochs = [epoch(one, number) for number in (0, 1)]
    random.seed(3), np.random.seed(3)
    before = states()
    assert [epoch(other, number) for number in (1, 0)] == epochs[::-1]
    assert states() == before  # the generators of the process are left alone
    assert len(one) == len(epochs[1])
    if form not in {"in order", "permutation", "subset of tensors"}:
        assert epochs[0] != epochs[1]
        assert epoch(take_over(form, seed=1)) != epochs[0]
    if form not in OTHERS:
        assert sorted(flat(epochs[1])) == list(range(N))


@pytest.mark.parametrize("form", FORMS)
def test_a_new_process_continues_with_the_next_batch(form):
    whole = epoch(behind(take_over(form, 1, 2), 0), 2)
    for batches in {1, len(whole) - 1}:
        resumed = behind(take_over(form, 1, 2, seed=7), batches)
        assert epoch(resumed, 2) == whole[batches:]
        assert epoch(behind(resumed, 0), 3) == epoch(behind(take_over(form, 1, 2), 0), 3)


def test_a_sampler_of_the_users_decides_what_comes():
    assert all(row % 3 for row in flat(epoch(take_over("weighted"))))
    assert flat(epoch(take_over("permutation"))) == np.random.default_rng(0).permutation(N).tolist()
    assert [len(batch) for batch in epoch(take_over("drop_last"))] == [4] * 5
    assert (len(flat(epoch(take_over("with replacement")))), len(set(flat(epoch(take_over("fewer")))))) == (40, 17)


def test_set_epoch_of_a_users_sampler_gets_the_epoch():
    made = MapLoader(DataLoader(Numbers(), 4, sampler=Turns()), Role())
    assert [epoch(made, number)[0] for number in (0, 5)] == [[0, 1, 2, 3], [5, 6, 7, 8]]


def test_a_loader_that_starts_again_within_an_epoch_has_another_order_each_time():
    first, second, third = (epoch(behind(take_over("plain"), batches)) for batches in (0, 6, 12))
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


RESTS = {
    "plain": lambda length: DataLoader(Numbers(length), 4, True),
    "buckets": lambda length: DataLoader(Numbers(length), batch_sampler=Buckets(length, 4)),
    "no batches": lambda length: DataLoader(Numbers(length), None),
}


@pytest.mark.parametrize("length", [21, 22, 24, 25])
@pytest.mark.parametrize("form", RESTS)
def test_a_rest_is_shared_by_the_ranks(form, length):
    ranks = {}
    for stage in ("test", "train"):
        torch.manual_seed(0)
        ranks[stage] = [MapLoader(RESTS[form](length), Role(stage=stage, rank=rank, world_size=3)) for rank in range(3)]
    # An evaluation has each sample once, in batches that are not too large and, if they are of several, as many.
    tested = [epoch(each) for each in ranks["test"]]
    assert sorted(flat(flat(tested))) == list(range(length))
    assert max(map(len, flat(tested))) <= {"plain": 4, "buckets": 2}.get(form, 1)
    assert form != "plain" or len({len(batches) for batches in tested}) == 1
    # In training a process without a row has one that weighs nothing.
    seen = []
    for batch, parts in enumerate(zip(*ranks["train"], strict=True)):
        each = [torch.tensor(rows(part), dtype=torch.float64) for part in parts]
        weights = [made.weight_of(batch) for made in ranks["train"]]
        real = torch.cat([part for part, weight in zip(each, weights, strict=True) if weight])
        weighted = sum(part.mean() * weight for part, weight in zip(each, weights, strict=True)) / 3
        assert torch.isclose(weighted, real.mean(), rtol=1e-12)
        seen += real.int().tolist()
    assert sorted(seen) == list(range(length))


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


def test_what_cannot_be_shared_or_resumed_is_rejected():
    with pytest.raises(ValueError, match=r"23 samples cannot be shared by 24 processes"):
        len(MapLoader(DataLoader(Numbers(), 4), Role(world_size=24)))
    with pytest.raises(ValueError, match=r"drop_last leaves no batch: 23 samples are fewer than batch_size=12 times 2"):
        len(MapLoader(DataLoader(Numbers(), 12, drop_last=True), Role(world_size=2)))
    state = take_over("plain").state_dict()
    with pytest.raises(ValueError, match=r"within an epoch of 6 batches of 4 .*; now there are 3 batches of 8"):
        behind(take_over("plain", size=8), 1).load_state_dict(state)
    for batches in (0, 6):
        behind(take_over("plain", size=8), batches).load_state_dict(state)  # between epochs nothing can be lost
