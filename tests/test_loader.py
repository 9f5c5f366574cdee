import itertools

import pytest
import torch

from src.data.loader import TensorLoader
from src.engine.data.order import Role
from src.engine.errors import UserError
from tests.stopping import behind

ROWS = torch.arange(23)


def loader(role=Role(), **options):
    made = TensorLoader((torch.arange(30),), **{"rows": ROWS, "batch_size": 4, "shuffle": True, "seed": 0} | options)
    made.follow(role)
    return made


def epoch(made, number=0):
    made.set_epoch(number)
    return [batch.tolist() for (batch,) in made]


def test_each_pass_has_each_row_once_in_an_order_of_its_own():
    made = loader(passes=3)
    assert len(made) == 18
    batches = epoch(made, 0) + epoch(made, 1)
    assert [len(batch) for batch in batches] == [4, 4, 4, 4, 4, 3] * 6
    passes = [list(itertools.chain(*batches[start : start + 6])) for start in range(0, 36, 6)]
    assert all(sorted(one) == ROWS.tolist() for one in passes)
    assert len(set(map(tuple, passes))) == 6


def test_the_order_is_a_function_of_seed_and_epoch():
    torch.manual_seed(1)
    first = epoch(loader(), 3)
    torch.manual_seed(2)
    assert first == epoch(loader(), 3)
    assert first != epoch(loader(seed=1), 3)
    assert epoch(loader(seed=0), 1) != epoch(loader(seed=1), 0)


def test_the_seed_is_the_loaders_else_the_runs_else_the_process_seed():
    torch.manual_seed(5)
    assert epoch(loader(seed=None)) == epoch(loader(seed=5)) != epoch(loader(seed=0))
    assert epoch(behind(loader(seed=None), 1, seed=1)) == epoch(loader(seed=1))[1:]
    assert epoch(behind(loader(seed=2), 1, seed=1)) == epoch(loader(seed=2))[1:]


def test_a_new_loader_continues_at_the_position_of_the_run():
    assert epoch(behind(loader(), 5), 2) == epoch(loader(), 2)[5:]


@pytest.mark.parametrize("world_size", [2, 3, 4])
@pytest.mark.parametrize("num_rows", [4, 22, 23, 24, 25])
def test_the_ranks_together_have_the_batches_of_one(world_size, num_rows):
    rows = torch.arange(num_rows)
    one = epoch(loader(rows=rows, batch_size=12))
    ranks = [
        epoch(loader(Role(rank=rank, world_size=world_size), rows=rows, batch_size=12 // world_size))
        for rank in range(world_size)
    ]
    together = [sorted(itertools.chain(*parts)) for parts in zip(*ranks, strict=True)]
    assert sorted(itertools.chain(*together)) == list(range(num_rows))
    assert [len(batch) for batch in together[:-2]] == [12] * (len(one) - 2)
    if num_rows % 12 == 0 or num_rows % 12 >= world_size:
        assert together == [sorted(batch) for batch in one]
    else:  # the last batch has a row for each rank
        assert len(together[-1]) == world_size


@pytest.mark.parametrize("world_size", [2, 4])
def test_the_weights_make_the_mean_over_ranks_the_mean_over_rows(world_size):
    values = torch.randn(23, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    ranks = [TensorLoader((values,), 12 // world_size, rank=rank, world_size=world_size) for rank in range(world_size)]
    for batch, ((whole,), *parts) in enumerate(zip(TensorLoader((values,), 12), *ranks, strict=True)):
        weighted = [part.mean() * made.weight_of(batch) for (part,), made in zip(parts, ranks, strict=True)]
        assert torch.isclose(sum(weighted) / world_size, whole.mean(), rtol=1e-12)


def test_the_transform_gets_whole_batches():
    shapes = []

    def transform(batch):
        shapes.append(tuple(batch.shape))
        return batch.float()

    made = TensorLoader((torch.zeros(10, 5, dtype=torch.uint8),), 4, transform=transform)
    assert all(batch.dtype == torch.float32 for (batch,) in made)
    assert shapes == [(4, 5), (4, 5), (2, 5)]


@pytest.mark.parametrize("other", [{"batch_size": 8}, {"role": Role(world_size=2)}, {"rows": ROWS[:-4]}, {"seed": 1}])
def test_a_position_within_an_epoch_of_other_batches_is_refused(other):
    state = loader().state_dict()
    with pytest.raises(UserError, match=r"call src\.engine\.data\.adopt\.adopt"):
        loader(**other).load_state_dict(state)
    with pytest.raises(UserError, match=r"within an epoch of 6 batches of 4 in the order of seed 0; now there are"):
        behind(loader(**other), 1).load_state_dict(state)
    for batches in (0, 6):
        behind(loader(**other), batches).load_state_dict(state)  # between epochs nothing can be lost


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"batch_size": 0}, "batch_size=0 must be at least 1"),
        ({"role": Role(world_size=4), "rows": ROWS[:3]}, "3 samples cannot be shared by 4 .*--trainer.devices to 3"),
        ({"rows": ROWS[:0]}, "no sample to load"),
    ],
)
def test_impossible_options_are_refused(options, words):
    with pytest.raises(UserError, match=words):
        len(loader(**options))


def test_tensors_of_several_lengths_are_refused():
    with pytest.raises(UserError, match="have 10, 1200 rows"):
        TensorLoader((torch.zeros(1200, 2), torch.zeros(10)), 4)
