import pytest
import torch

from src.data.rows import RowsDataModule, load_rows
from src.engine.data.splits import split_by_row
from src.models.rows import RowsNet
from tests.conftest import CONFIGS

FIT = ("fit", "--config", CONFIGS / "rows.yaml")


@pytest.fixture
def data():
    made = RowsDataModule()
    made.setup("fit")
    return made


def test_the_net_takes_the_rows_as_they_are():
    x, target = load_rows()
    logits = RowsNet()(x)
    assert logits.shape == (len(x), 3)
    assert torch.isfinite(torch.nn.functional.cross_entropy(logits, target))


def test_each_row_is_in_one_part_and_its_seed_decides_in_which(data):
    parts = data.train_rows, data.val_rows, data.test_rows
    assert torch.equal(torch.cat(parts).sort().values, torch.arange(len(load_rows()[0])))
    torch.manual_seed(1)
    again, other = RowsDataModule(), RowsDataModule(split_seed=7)
    again.setup("test")
    other.setup("test")
    assert torch.equal(again.test_rows, data.test_rows)
    assert not torch.equal(other.test_rows, data.test_rows)


def test_the_training_rows_alone_tell_the_scale(data):
    x = data.tensors[0][data.train_rows]
    assert torch.allclose(x.mean(dim=0), torch.zeros(x.shape[1]), atol=1e-5)
    assert torch.allclose(x.std(dim=0, correction=0), torch.ones(x.shape[1]), atol=1e-5)


def test_it_learns(cli):
    # Above what your data gives to guessing; here guessing is right in one of three cases.
    done = cli(*FIT)
    assert done.code == 0, done.err
    assert done.metrics["test/acc"] > 0.9


def test_the_checkpoint_alone_is_enough_to_test_and_to_predict(cli):
    assert cli(*FIT, "--trainer.max_epochs=1").code == 0
    assert "test/acc" in cli("test", "--ckpt_path", "runs/rows/version_0").metrics
    assert "probability" in cli("predict", "--ckpt_path", "runs/rows/version_0").out


def test_rows_that_came_since_change_neither_the_parts_nor_the_scale(cli, monkeypatch, data):
    assert cli(*FIT, "--trainer.max_epochs=1").code == 0
    before = cli("test", "--ckpt_path", "runs/rows/version_0").metrics
    x, target = load_rows()
    more = 100 * x + 7
    more = more[split_by_row(more, 42)[0]]  # all of them train
    table, wider = torch.cat([more[:20], x.flip(0), more[20:]]), RowsDataModule()
    classes = torch.cat([target[:20], target.flip(0), target[: len(more) - 20]])
    monkeypatch.setattr("src.data.rows.load_rows", lambda: (table, classes))
    wider.setup("test")
    for part in ("train", "val", "test"):
        old = {tuple(row) for row in x[getattr(data, f"{part}_rows")].tolist()}
        assert old <= {tuple(row) for row in table[getattr(wider, f"{part}_rows")].tolist()}
    after = cli("test", "--ckpt_path", "runs/rows/version_0").metrics
    assert after == pytest.approx(before)


COLUMNS = {
    "the same in all rows": torch.full((600,), 0.1),
    "whole numbers": torch.arange(600) % 5,
    "large numbers": 1.7e9 + torch.arange(600, dtype=torch.float64) % 7,
    "large and the same": torch.full((600,), 123456789.0),
    "of one row": torch.zeros(600).index_fill(0, torch.tensor([3]), 1e6),
}


@pytest.mark.parametrize("column", COLUMNS.values(), ids=COLUMNS.keys())
def test_a_column_of_any_numbers_is_scaled(monkeypatch, column):
    x, target = load_rows()
    table = torch.cat([x.to(column.dtype), column[:, None]], dim=1)
    monkeypatch.setattr("src.data.rows.load_rows", lambda: (table, target))
    made = RowsDataModule()
    made.setup("fit")
    scaled = made.tensors[0][made.train_rows]
    assert scaled.dtype == torch.float32
    assert torch.allclose(scaled.mean(dim=0), torch.zeros(5), atol=1e-4)
    seen = column[made.train_rows]
    std = 1.0 if seen.amax() > seen.amin() else 0.0
    assert float(scaled[:, 4].std(correction=0)) == pytest.approx(std, abs=1e-4)


def test_a_value_that_is_missing_is_one_line(cli, monkeypatch):
    x, target = load_rows()
    x[5, 2] = float("nan")
    monkeypatch.setattr("src.data.rows.load_rows", lambda: (x, target))
    done = cli(*FIT)
    assert done.code == 1
    assert "error: Row 5 has a missing or infinite value. Fill it in or drop the row in load_rows." in done.err
