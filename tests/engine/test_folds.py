import pytest
import torch

from src.data.rows import RowsDataModule
from src.engine.data.splits import fold_of, hold_out, split_by_row
from src.engine.errors import UserError


def all_folds(rows, number, seed=0, **of):
    return [fold_of(rows, (which, number), seed, **of) for which in range(number)]


@pytest.mark.parametrize("number", [2, 3, 10])
def test_each_row_validates_in_one_fold_and_trains_in_the_others(number):
    rows = torch.arange(100, 123)
    folds = all_folds(rows, number)
    assert torch.equal(torch.cat([val for _, val in folds]).sort().values, rows)
    for train, val in folds:
        assert torch.equal(torch.cat([train, val]).sort().values, rows)
        assert 23 // number <= len(val) <= 23 // number + 1


def test_the_seed_alone_decides_the_folds():
    torch.manual_seed(0)
    first = all_folds(50, 5, seed=7)
    torch.manual_seed(1)
    for (train, val), (same_train, same_val) in zip(first, all_folds(50, 5, seed=7), strict=True):
        assert torch.equal(train, same_train)
        assert torch.equal(val, same_val)
    assert not torch.equal(first[0][1], fold_of(50, (0, 5), 8)[1])
    assert not torch.equal(first[0][1], torch.arange(10))  # shuffled


def test_each_fold_has_each_class_as_often_as_the_whole():
    target = torch.tensor([0] * 60 + [1] * 30 + [2] * 10)
    for _, val in all_folds(100, 5, stratify=target):
        assert target[val].bincount().tolist() == [12, 6, 2]


@pytest.mark.parametrize("by_class", [False, True])
def test_a_group_is_in_one_fold_alone(by_class):
    patients = [f"patient {number % 8}" for number in range(40)]
    target = torch.arange(40) % 2
    folds = all_folds(40, 4, groups=patients, stratify=target if by_class else None)
    assert torch.equal(torch.cat([val for _, val in folds]).sort().values, torch.arange(40))
    for train, val in folds:
        assert not {patients[row] for row in train} & {patients[row] for row in val}
        assert not by_class or target[val].float().mean() == 0.5


@pytest.mark.parametrize(
    ("rows", "fold", "of", "said"),
    [
        (10, (5, 5), {}, r"fold=\[5, 5\] does not exist: \[0, 5\] is the first of five"),
        (10, (-1, 5), {}, "does not exist"),
        (10, (0, 1), {}, "does not exist"),
        (
            3,
            (0, 5),
            {},
            r"fold=\[0, 5\]: .*n_splits=5 greater than the number of samples: n_samples=3. Take fewer: --data",
        ),
        (4, (0, 3), {"groups": ["a", "a", "b", "b"]}, "greater than the number of groups: 2"),
        (4, (0, 3), {"stratify": [0, 0, 1, 1]}, "greater than the number of members in each class"),
        (4, (0, 2), {"stratify": [0, 1]}, "inconsistent numbers of samples"),
    ],
)
def test_folds_that_cannot_be_are_refused_in_a_line(rows, fold, of, said):
    with pytest.raises(UserError, match=said) as refused:
        fold_of(rows, fold, 0, **of)
    assert "\n" not in str(refused.value)


def test_what_is_held_out_is_drawn_by_the_seed_and_nothing_is_lost():
    train, val = hold_out(20, 5, seed=3)
    assert torch.equal(torch.cat([train, val]).sort().values, torch.arange(20))
    assert len(val) == 5
    assert torch.equal(val, hold_out(20, 5, seed=3)[1])
    assert not torch.equal(val, hold_out(20, 5, seed=4)[1])


def test_the_folds_of_a_data_module_leave_its_test_rows_alone():
    plain = RowsDataModule()
    plain.setup("fit")
    seen = []
    for which in range(4):
        data = RowsDataModule(fold=(which, 4))
        data.setup("fit")
        assert torch.equal(data.test_rows, plain.test_rows)
        seen += [data.val_rows]
        assert data.tensors[0][data.train_rows].mean(dim=0).abs().max() < 1e-5  # scaled by this fold's training rows
    parts = torch.cat([*seen, plain.test_rows])
    assert torch.equal(parts.sort().values, torch.arange(len(parts)))


@pytest.mark.parametrize("fold", [None, (1, 3)])
def test_the_part_of_a_row_depends_on_nothing_but_the_row_and_the_seed(fold):
    x = torch.randn(500, 3, generator=torch.Generator().manual_seed(0))
    x[7] = x[400]
    parts = split_by_row(x, 1, fold)
    assert torch.equal(torch.cat(parts).sort().values, torch.arange(500))
    order = torch.randperm(500, generator=torch.Generator().manual_seed(1))
    fewer = x[order[:300]].double()
    for part, again in zip(parts, split_by_row(fewer, 1, fold), strict=True):
        assert {int(order[row]) for row in again} == set(order[:300].tolist()) & set(part.tolist())
        assert (7 in part) == (400 in part)
    assert not torch.equal(parts[2], split_by_row(x, 2, fold)[2])
    assert [len(part) / 500 for part in split_by_row(x, 1)] == pytest.approx([0.6, 0.2, 0.2], abs=0.06)


def test_rows_may_be_split_by_a_name_or_a_number_of_each():
    patients = [f"patient {number % 40}" for number in range(400)]
    train, val, test = ({patients[row] for row in part} for part in split_by_row(patients, 0))
    assert not train & (val | test)
    assert not val & test
    assert len(split_by_row(torch.arange(100), 0)[1]) > 0


@pytest.mark.parametrize(
    ("number", "fold", "said"),
    [(1, None, "A split of 1 rows leaves none to .*split_seed"), (99, (5, 5), "does not exist")],
)
def test_a_split_that_cannot_be_is_refused_in_a_line(number, fold, said):
    with pytest.raises(UserError, match=said):
        split_by_row(torch.arange(number), 0, fold)
