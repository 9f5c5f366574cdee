"""What an evaluation draws is one draw: in a fit, in a later verb, on any number of processes, and next to training."""

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch import LightningDataModule
from torch.utils.data import DataLoader, Dataset

from src.module import LitModule
from tests.processes import launch, processes
from tests.stopping import config, differences, fit, killed_at, resume, rows, run_differences


def noise() -> float:
    return float(torch.rand(())) + float(np.random.random()) + random.random()


def noisy(samples: list[torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    x = torch.stack(samples)
    return x, x.sum(dim=1, keepdim=True)


class Rows(Dataset[torch.Tensor]):
    """Each draws noise."""

    def __init__(self, num_rows: int) -> None:
        self.num_rows = num_rows

    def __len__(self) -> int:
        return self.num_rows

    def __getitem__(self, index: int) -> torch.Tensor:
        return torch.full((4,), index / 7) + noise()


class Data(LightningDataModule):
    def __init__(self, num_workers: int = 0, batch_size: int = 4) -> None:
        super().__init__()
        self.options: dict[str, Any] = {"num_workers": num_workers, "batch_size": batch_size, "collate_fn": noisy}

    def train_dataloader(self) -> Any:
        return DataLoader(Rows(20), shuffle=True, **self.options)

    def val_dataloader(self) -> Any:
        return [DataLoader(Rows(13), **self.options), DataLoader(Rows(9), shuffle=True, **self.options)]

    def test_dataloader(self) -> Any:
        return DataLoader(Rows(13), **self.options)

    predict_dataloader = test_dataloader


class Drawing(LitModule):
    """Its steps of evaluation add noise, and so does the end of an epoch."""

    def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> Any:
        return super().validation_step((batch[0] + noise(), batch[1]), batch_idx, dataloader_idx)

    def test_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> Any:
        return super().test_step((batch[0] + noise(), batch[1]), batch_idx)

    def predict_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> Any:
        return super().predict_step((batch[0] + noise(), batch[1]), batch_idx)

    def on_test_epoch_end(self) -> None:
        super().on_test_epoch_end()
        self.log("test/drawn", noise())


def experiment(task: str = "tests.engine.test_evaluation_draws.Drawing", **data: Any) -> dict[str, Any]:
    made = config(dropout=0.5, limit_train_batches=4, max_epochs=2, every_n_steps=3)
    made["model"] = {"class_path": task, "init_args": made["model"]}
    return made | {"data": {"class_path": "tests.engine.test_evaluation_draws.Data", "init_args": data}}


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A run, and a copy of it as it was amid its second validation."""
    made = experiment() | {"test_after_fit": True}
    return killed_at(("on_validation_batch_end", 10), tmp_path_factory.mktemp("whole"), made)


def figures(run: Path, stage: str) -> dict[str, str]:
    """The last figures of a stage."""
    found = [{name: value for name, value in row.items() if name.startswith(stage) and value} for row in rows(run)]
    return [row for row in found if row][-1]


def test_a_later_verb_draws_what_the_fit_drew(runs, cli):
    run, home = runs[0], "--trainer.default_root_dir=."
    assert cli("test", "--ckpt_path", run / "checkpoints/best.ckpt", "--data.num_workers=1", home).code == 0
    assert cli("validate", "--ckpt_path", run, home).code == 0
    assert figures(Path("sums/version_0"), "test") == figures(run, "test")
    assert figures(Path("sums/version_1"), "val") == figures(run, "val")
    files = []
    for number, options in ((2, []), (3, ["--trainer.limit_predict_batches=2"])):
        assert cli("predict", "--ckpt_path", run, home, *options).code == 0
        files.append(Path(f"sums/version_{number}/predictions.csv").read_text().splitlines())
    assert files[1] == files[0][:9]


def test_training_does_not_notice_what_a_validation_draws(runs, tmp_path):
    made = experiment("src.module.LitModule")
    made["trainer"] |= {"limit_val_batches": 0}
    both = runs[0], fit(tmp_path, made)
    states = [torch.load(run / "checkpoints/last.ckpt", weights_only=True)["state_dict"] for run in both]
    assert differences(*states) == []


def test_a_run_that_draws_in_its_validation_goes_on_to_the_same_bits(runs):
    whole, run = runs
    # Saved by the first validation, it holds the states of training.
    assert resume(run / "checkpoints/best.ckpt", f"--trainer.default_root_dir={run.parent.parent}") == 0
    assert run_differences(whole, run.parent / "version_1") == []
    assert resume(run) == 0
    assert run_differences(whole, run) == []


@pytest.mark.slow
def test_two_processes_draw_for_a_sample_what_one_draws(tmp_path):
    run = fit(tmp_path / "fit", experiment("src.module.LitModule"))
    tested = []
    for number in (1, 2):
        size = ("--data.batch_size", str(4 // number))
        launch("test", "--ckpt_path", run, *size, *(processes(2) if number == 2 else ()), cwd=tmp_path)
        tested.append(float(figures(run.parent / f"version_{number}", "test")["test/mae"]))
    assert tested[0] == pytest.approx(tested[1], rel=1e-5)
