import itertools

import pytest
import torch

from src.data.loader import TensorLoader
from src.engine.data.order import Role
from src.engine.errors import UserError
from tests.stopping import behind

ROWS = torch.arange(23)


def loader(role=None, **options):
    given = {"tensors": (torch.arange(30),), "rows": ROWS, "batch_size": 4, "shuffle": True, "seed": 0} | options
    made = TensorLoader(**given)
    made.follow(role or Role())
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


def test_the_order_is_a_function_of_epoch_and_seed_the_loaders_else_the_runs_else_the_process_seed():
    torch.manual_seed(5)
    first = epoch(loader(), 3)
    assert epoch(loader(seed=None)) == epoch(loader(seed=5)) != epoch(loader(seed=0))
    assert epoch(behind(loader(seed=None), 1, seed=1)) == epoch(loader(seed=1))[1:]
    assert epoch(behind(loader(seed=2), 1, seed=1)) == epoch(loader(seed=2))[1:]
    torch.manual_seed(2)
    assert epoch(loader(), 3) == first not in (epoch(loader(seed=1), 3), epoch(loader(), 4))
    assert epoch(loader(seed=0), 1) != epoch(loader(seed=1), 0)


@pytest.mark.parametrize("num_rows", [22, 24, 25])
def test_the_ranks_together_have_the_batches_of_one(num_rows):
    rows = torch.arange(num_rows)
    one = epoch(loader(rows=rows, batch_size=12))
    ranks = [epoch(loader(Role(rank=rank, world_size=3), rows=rows)) for rank in range(3)]
    together = [sorted(itertools.chain(*parts)) for parts in zip(*ranks, strict=True)]
    if num_rows == 25:  # the last batch has a row for each rank
        assert [len(batch) for batch in together] == [12, 10, 3]
        assert sorted(itertools.chain(*together)) == rows.tolist()
    else:
        assert together == [sorted(batch) for batch in one]


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
        ({"role": Role(world_size=4), "rows": ROWS[:3]}, "3 samples are too few for 4 .* fewer --trainer.devices"),
        ({"rows": ROWS[:0]}, "0 samples are too few"),
        ({"tensors": (torch.zeros(1200, 2), torch.zeros(10))}, "have 10, 1200 rows"),
    ],
)
def test_impossible_options_are_refused(options, words):
    with pytest.raises(UserError, match=words):
        len(loader(**options))
