import pytest
import torch

from src.data.rows import RowsDataModule
from src.engine.data.splits import fold_of, hold_out, split_by_row
from src.engine.errors import UserError


def all_folds(rows, number, seed=0, **of):
    return [fold_of(rows, (which, number), seed, **of) for which in range(number)]


def test_each_row_validates_in_one_fold_and_the_seed_decides_in_which_and_which_are_held_out():
    rows = torch.arange(100, 123)
    folds = all_folds(rows, 3, seed=7)
    assert torch.equal(torch.cat([val for _, val in folds]).sort().values, rows)
    assert {len(val) for _, val in folds} == {7, 8}
    torch.manual_seed(1)
    for (train, val), (_, same) in zip(folds, all_folds(rows, 3, seed=7), strict=True):
        assert torch.equal(torch.cat([train, val]).sort().values, rows)
        assert torch.equal(val, same)
    assert not torch.equal(folds[0][1], fold_of(rows, (0, 3), 8)[1])
    train, val = hold_out(20, 5, seed=3)
    assert torch.equal(torch.cat([train, val]).sort().values, torch.arange(20))
    assert torch.equal(val, hold_out(20, 5, seed=3)[1])
    assert not torch.equal(val, hold_out(20, 5, seed=4)[1])


def test_folds_have_equal_classes_and_whole_groups():
    target = torch.tensor([0] * 60 + [1] * 30 + [2] * 10)
    for _, val in all_folds(100, 5, stratify=target):
        assert target[val].bincount().tolist() == [12, 6, 2]
    patients, target = [f"patient {number % 8}" for number in range(40)], torch.arange(40) % 2
    for stratify in (None, target):
        folds = all_folds(40, 4, groups=patients, stratify=stratify)
        assert torch.equal(torch.cat([val for _, val in folds]).sort().values, torch.arange(40))
        for train, val in folds:
            assert not {patients[row] for row in train} & {patients[row] for row in val}
            assert stratify is None or target[val].float().mean() == 0.5


@pytest.mark.parametrize(
    ("rows", "fold", "of", "said"),
    [
        (10, (5, 5), {}, r"fold=\[5, 5\] does not exist: \[0, 5\] is the first of five"),
        (10, (0, 1), {}, "does not exist"),
        (3, (0, 5), {}, r"fold=\[0, 5\]: .*number of samples: n_samples=3. Take fewer: --data"),
        (4, (0, 3), {"groups": ["a", "a", "b", "b"]}, "greater than the number of groups: 2"),
    ],
)
def test_a_fold_that_cannot_be_is_rejected_in_one_line(rows, fold, of, said):
    with pytest.raises(UserError, match=said) as refused:
        fold_of(rows, fold, 0, **of)
    assert "\n" not in str(refused.value)


def test_the_folds_of_a_data_module_leave_its_test_rows_alone():
    made = [RowsDataModule(fold=fold) for fold in (None, *((which, 4) for which in range(4)))]
    for data in made:
        data.setup("fit")
        assert torch.equal(data.test_rows, made[0].test_rows)
        scaled = data.scale(data.tensors[0][data.train_rows])
        assert scaled.mean(dim=0).abs().max() < 1e-5  # by this fold's training rows
    parts = torch.cat([made[0].test_rows, *(data.val_rows for data in made[1:])])
    assert torch.equal(parts.sort().values, torch.arange(len(parts)))


@pytest.mark.parametrize("fold", [None, (1, 3)])
def test_the_row_and_the_seed_alone_decide_its_part(fold):
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


def test_rows_may_be_split_by_a_name_of_each():
    patients = [f"patient {number % 40}" for number in range(400)]
    train, val, test = ({patients[row] for row in part} for part in split_by_row(patients, 0))
    assert not train & (val | test)
    assert not val & test
    with pytest.raises(UserError, match=r"A split of 1 rows leaves none to .*split_seed"):
        split_by_row(torch.arange(1), 0)
