import pytest
import torch

from src.data.rows import RowsDataModule, load_rows
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
    assert torch.allclose(x.std(dim=0), torch.ones(x.shape[1]), atol=1e-5)


def test_it_learns(cli):
    # Above what your data gives to guessing; here guessing is right in one of three cases.
    done = cli(*FIT)
    assert done.code == 0, done.err
    assert done.metrics["test/acc"] > 0.9


def test_the_checkpoint_alone_is_enough_to_test_and_to_predict(cli):
    assert cli(*FIT, "--trainer.max_epochs=1").code == 0
    assert "test/acc" in cli("test", "--ckpt_path", "runs/rows/version_0").metrics
    assert "probability" in cli("predict", "--ckpt_path", "runs/rows/version_0").out


def test_rows_that_came_since_do_not_change_the_scale(cli, monkeypatch):
    assert cli(*FIT, "--trainer.max_epochs=1").code == 0
    before = cli("test", "--ckpt_path", "runs/rows/version_0").metrics
    x, target = load_rows()
    made = RowsDataModule()
    made.setup("test")
    x[made.train_rows] += 100
    monkeypatch.setattr("src.data.rows.load_rows", lambda: (x, target))
    assert cli("test", "--ckpt_path", "runs/rows/version_0").metrics == before
