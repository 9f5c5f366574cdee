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
from tests.stopping import config, differences, fit, resume, rows, run_differences


def noise() -> float:
    return float(torch.rand(())) + float(np.random.normal()) + random.random()


def noisy(samples: list[torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    x = torch.stack(samples)
    return x, x.sum(dim=1, keepdim=True)


class Rows(Dataset[torch.Tensor]):
    def __init__(self, num_rows: int, draws: bool) -> None:
        self.num_rows = num_rows
        self.draws = draws

    def __len__(self) -> int:
        return self.num_rows

    def __getitem__(self, index: int) -> torch.Tensor:
        return torch.full((4,), index / 7) + (noise() if self.draws else 0.0)


class Data(LightningDataModule):
    def __init__(self, draws: bool = True, num_workers: int = 0, batch_size: int = 4) -> None:
        super().__init__()
        self.draws, self.num_workers, self.batch_size = draws, num_workers, batch_size

    def loader(self, num_rows: int, **options: Any) -> DataLoader[Any]:
        dataset = Rows(num_rows, self.draws)
        return DataLoader(dataset, self.batch_size, collate_fn=noisy, num_workers=self.num_workers, **options)

    def train_dataloader(self) -> Any:
        return self.loader(20, shuffle=True)

    def val_dataloader(self) -> Any:
        return [self.loader(13), self.loader(9, shuffle=True)]

    def test_dataloader(self) -> Any:
        return self.loader(13)

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


def experiment(task: str = "Drawing", **data: Any) -> dict[str, Any]:
    made = config(dropout=0.5, limit_train_batches=4, max_epochs=2)
    made["model"] = {"class_path": f"tests.engine.test_evaluation_draws.{task}", "init_args": made["model"]}
    made["data"] = {"class_path": "tests.engine.test_evaluation_draws.Data", "init_args": data}
    return made | {"test_after_fit": True}


def figures(run: Path, stage: str) -> dict[str, str]:
    """The last figures of a stage."""
    found = [{name: value for name, value in row.items() if name.startswith(stage) and value} for row in rows(run)]
    return [row for row in found if row][-1]


@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_later_verb_draws_what_the_fit_drew(num_workers, tmp_path, cli):
    run = fit(tmp_path / "fit", experiment(num_workers=num_workers))
    assert cli("test", "--ckpt_path", run / "checkpoints/best.ckpt").code == 0
    assert cli("validate", "--ckpt_path", run / "checkpoints/last.ckpt").code == 0
    assert figures(run.parent / "version_1", "test") == figures(run, "test")
    assert figures(run.parent / "version_2", "val") == figures(run, "val")
    files = []
    for number, options in ((3, []), (4, ["--trainer.limit_predict_batches=2"])):
        assert cli("predict", "--ckpt_path", run, *options).code == 0
        files.append((run.parent / f"version_{number}/predictions.csv").read_text().splitlines())
    assert files[1] == files[0][:9]


def test_training_does_not_notice_what_a_validation_draws(tmp_path):
    made = experiment() | {"test_after_fit": False}
    drawing = fit(tmp_path / "drawing", made)
    made["model"]["class_path"] = "src.module.LitModule"
    quiet = fit(tmp_path / "quiet", made)
    made["trainer"] |= {"limit_val_batches": 0}
    none = fit(tmp_path / "none", made)
    states = [torch.load(run / "checkpoints/last.ckpt", weights_only=True) for run in (drawing, quiet, none)]
    for state in states[1:]:
        assert differences(states[0]["state_dict"], state["state_dict"]) == []


@pytest.mark.parametrize("stop", [("on_validation_batch_end", 7), ("on_validation_end", 1), ("on_train_batch_end", 6)])
def test_a_run_that_draws_in_its_validation_goes_on_to_the_same_bits(stop, tmp_path):
    made = experiment()
    made["checkpoint"]["every_n_steps"] = 3
    whole, run = fit(tmp_path / "whole", made), fit(tmp_path / "stopped", made, stop)
    assert resume(run) == 0
    assert run_differences(whole, run) == []


def test_the_best_checkpoint_which_a_validation_saves_holds_the_states_of_training(tmp_path):
    made = experiment() | {"test_after_fit": False}
    whole, run = fit(tmp_path / "whole", made), fit(tmp_path / "stopped", made, ("on_train_batch_end", 6))
    assert resume(run / "checkpoints/best.ckpt") == 0
    assert run_differences(whole, run.parent / "version_1") == []


@pytest.mark.slow
def test_two_processes_draw_for_a_sample_what_one_draws(tmp_path):
    made = experiment("Plain") | {"test_after_fit": False}
    run = fit(tmp_path / "fit", made)
    tested = []
    for number in (1, 2):
        size = ("--data.batch_size", str(4 // number))
        launch("test", "--ckpt_path", run, *size, *(processes(2) if number == 2 else ()), cwd=tmp_path)
        tested.append(float(figures(run.parent / f"version_{number}", "test")["test/mae"]))
    assert tested[0] == pytest.approx(tested[1], rel=1e-5)


class Plain(LitModule):
    """Draws nothing itself."""
