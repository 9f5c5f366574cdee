import pytest
import torch

from src.data.rows import RowsDataModule, load_rows
from src.engine.data.splits import split_by_row
from src.engine.errors import UserError
from tests.conftest import CONFIGS


def set_up(monkeypatch=None, table=None):
    if table is not None:
        monkeypatch.setattr("src.data.rows.load_rows", lambda: table)
    made = RowsDataModule()
    made.setup("fit")
    return made


def test_it_learns_and_the_checkpoint_alone_tests_and_predicts(cli):
    # Above what guessing gives on your data; here guessing is right in one of three cases.
    done = cli("fit", "--config", CONFIGS / "rows.yaml")
    assert done.code == 0, done.err
    assert done.metrics["test/acc"] > 0.9
    tested = cli("test", "--ckpt_path", "runs/rows/version_0/checkpoints/best.ckpt").metrics
    assert tested["test/acc"] == done.metrics["test/acc"]
    assert "probability" in cli("predict", "--ckpt_path", "runs/rows/version_0").out


def test_rows_added_later_change_neither_parts_nor_scale(monkeypatch):
    data, (x, target) = set_up(), load_rows()
    more = 100 * x + 7
    more = more[split_by_row(more, 42)[0]]  # all of them train
    table = torch.cat([more[:20], x.flip(0), more[20:]])
    classes = torch.cat([target[:20], target.flip(0), target[: len(more) - 20]])
    wider = RowsDataModule()
    monkeypatch.setattr("src.data.rows.load_rows", lambda: (table, classes))
    wider.load_state_dict(data.state_dict())
    wider.setup("test")
    for part in ("train_rows", "val_rows", "test_rows"):
        old, new = (
            {tuple(row) for row in rows.tolist()} for rows in (x[getattr(data, part)], table[getattr(wider, part)])
        )
        assert old <= new
    old, new = (made.scale(made.tensors[0][made.test_rows]).sum(dim=0) for made in (data, wider))
    assert torch.allclose(old, new, atol=1e-4)


COLUMNS = {
    "constant": torch.full((600,), 0.1),
    "large": 1.7e9 + torch.arange(600, dtype=torch.float64) % 7,
    "large and constant": torch.full((600,), 123456789.0),
    "of one row": torch.zeros(600).index_fill(0, torch.tensor([3]), 1e6),
}


@pytest.mark.parametrize("column", COLUMNS.values(), ids=COLUMNS.keys())
def test_a_column_of_any_numbers_is_scaled_by_the_training_rows(monkeypatch, column):
    x, target = torch.randn(600, 4, generator=torch.Generator().manual_seed(0)), torch.arange(600) % 3
    made = set_up(monkeypatch, (torch.cat([x.to(column.dtype), column[:, None]], dim=1), target))
    scaled = made.scale(made.tensors[0][made.train_rows])
    assert scaled.dtype == torch.float32
    assert torch.allclose(scaled.mean(dim=0), torch.zeros(5), atol=1e-4)
    seen = column[made.train_rows]
    std = [1.0] * 4 + [float(seen.amax() > seen.amin())]
    assert scaled.std(dim=0, correction=0).tolist() == pytest.approx(std, abs=1e-4)


def test_a_missing_value_names_its_row(monkeypatch):
    x, target = load_rows()
    x[5, 2] = float("nan")
    with pytest.raises(UserError, match="Row 5 has a missing or infinite value"):
        set_up(monkeypatch, (x, target))
