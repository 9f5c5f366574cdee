"""Rows that do not split evenly: each counts once on two processes, and no batch is larger than it is to be."""

from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from lightning.pytorch import LightningDataModule
from torch.utils.data import DataLoader, Dataset

from src.module import LitModule
from tests.processes import launch, processes, rows, weights
from tests.stopping import config


class Series(Dataset[Any]):
    """Each of another length, so that no two of them make a batch, or `equal`; with `rows` an item is a batch."""

    def __init__(self, length: int, equal: bool = False, rows: bool = False) -> None:
        self.length, self.equal, self.rows = length, equal, rows

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> Any:
        size = 3 if self.equal else index + 1
        x = torch.randn(size, 4, generator=torch.Generator().manual_seed(index))
        return (x, x.sum(dim=1, keepdim=True)) if self.rows else (x, x.sum(dim=1, keepdim=True).cos())


class Data(LightningDataModule):
    """An odd number of everything: `ones`, batches of one sample; or `items`, a data set whose items are batches."""

    def __init__(self, form: str, batch_size: int = 1) -> None:
        super().__init__()
        self.form, self.batch_size = form, batch_size

    def loader(self, length: int, **options: Any) -> DataLoader[Any]:
        if self.form == "items":
            return DataLoader(Series(length, rows=True), batch_size=None, **options)
        return DataLoader(Series(length), batch_size=1)

    def train_dataloader(self) -> Any:
        if self.form == "items":
            return self.loader(7, shuffle=True)
        return DataLoader(Series(9, equal=True), self.batch_size, shuffle=True)

    def val_dataloader(self) -> Any:
        return self.loader(5)

    def test_dataloader(self) -> Any:
        return self.loader(7)

    predict_dataloader = test_dataloader


class Logs(LitModule):
    """Logs by itself, too, and for each step."""

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        loss = super().training_step(batch, batch_idx)
        self.log("train/own", loss, on_step=False, on_epoch=True)
        return loss

    def test_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> Any:
        self.log("test/rows", float(batch[0].shape[-2]), on_step=True, on_epoch=True, sync_dist=True)
        return super().test_step(batch, batch_idx, dataloader_idx)


def write(folder: Path, form: str, batch_size: int) -> Path:
    made = config(max_epochs=2)
    made["model"] = {"class_path": "tests.engine.test_uneven.Logs", "init_args": made["model"]}
    data = {"form": form, "batch_size": batch_size}
    made["data"] = {"class_path": "tests.engine.test_uneven.Data", "init_args": data}
    made["test_after_fit"] = True
    file = folder / f"{batch_size}.yaml"
    file.write_text(yaml.safe_dump(made))
    return file


def run(folder: Path, name: str, *args: object) -> Path:
    """Launch a command whose run lies in a folder of its own; returns the folder of the run."""
    launch(*args, f"--trainer.default_root_dir={name}", cwd=folder)
    (written,) = (folder / name).glob("sums/version_*/summary.json")
    return written.parent


@pytest.mark.slow
def test_batches_of_one_sample_train_and_evaluate_on_two_processes_as_on_one(tmp_path):
    one = run(tmp_path, "one", "fit", "--config", write(tmp_path, "ones", 2))
    two = run(tmp_path, "two", "fit", "--config", write(tmp_path, "ones", 1), *processes(2))
    for name, value in weights(one).items():
        assert torch.allclose(weights(two)[name], value, rtol=1e-4, atol=1e-6), name
    for left, right in zip(rows(one), rows(two), strict=True):
        assert left == pytest.approx(right, rel=1e-4)


@pytest.mark.slow
def test_items_that_are_batches_are_shared_as_batches(tmp_path):
    fitted = run(tmp_path, "fit", "fit", "--config", write(tmp_path, "items", 1), *processes(2))
    tested = run(tmp_path, "test", "test", "--ckpt_path", fitted / "checkpoints/best.ckpt", "--trainer.devices=1")
    tests = [[row for row in rows(each) if "test/loss" in row][-1] for each in (fitted, tested)]
    for name in ("test/loss", "test/mae", "test/rows"):
        assert tests[0][name] == pytest.approx(tests[1][name], rel=1e-5), name
    table = (run(tmp_path, "predict", "predict", "--ckpt_path", fitted, *processes(2)) / "predictions.csv").read_text()
    assert len(table.splitlines()) == 1 + sum(range(1, 8))
