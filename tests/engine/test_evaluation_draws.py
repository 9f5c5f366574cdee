"""What an evaluation draws is one draw: in a fit, in a later verb, and next to training."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader

from src.module import LitModule
from tests.engine.loader_tasks import Rows, Task, noise
from tests.stopping import config, differences, fit, killed_at, resume, rows, run_differences


class Data(Task):
    def val_dataloader(self) -> Any:
        return [DataLoader(Rows(13), self.batch_size), DataLoader(Rows(9), self.batch_size, shuffle=True)]

    def test_dataloader(self) -> Any:
        return DataLoader(Rows(13), self.batch_size)

    predict_dataloader = test_dataloader


class Drawing(LitModule):
    """Its steps of evaluation add noise, and so does the end of an epoch."""

    def step(self, batch: Any) -> Any:
        return super().step(batch if self.training else (batch[0] + noise(), batch[1]))

    def predict_step(self, batch: Any, batch_idx: int) -> Any:
        return super().predict_step((batch[0] + noise(), batch[1]), batch_idx)

    def on_test_epoch_end(self) -> None:
        super().on_test_epoch_end()
        self.log("test/drawn", noise().sum())


def experiment(**trainer: Any) -> dict[str, Any]:
    made = config(dropout=0.5, limit_train_batches=4, max_epochs=2, every_n_steps=3, **trainer)
    made["model"] = {"class_path": f"{__name__}.Drawing", "init_args": made["model"]}
    return made | {"data": {"class_path": f"{__name__}.Data", "init_args": {"form": "plain"}}, "test_after_fit": True}


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A run, and a copy of it as it was amid its second validation."""
    return killed_at(("on_validation_batch_end", 10), tmp_path_factory.mktemp("whole"), experiment())


def figures(run: Path, stage: str) -> dict[str, str]:
    found = [{name: value for name, value in row.items() if name.startswith(stage) and value} for row in rows(run)]
    return [row for row in found if row][-1]


def test_a_later_verb_draws_what_the_fit_drew(runs, cli):
    run, home = runs[0], "--trainer.default_root_dir=."
    assert cli("test", "--ckpt_path", run / "checkpoints/best.ckpt", home).code == 0
    assert cli("validate", "--ckpt_path", run, home).code == 0
    assert figures(Path("sums/version_0"), "test") == figures(run, "test")
    assert figures(Path("sums/version_1"), "val") == figures(run, "val")
    files = []
    for number, options in ((2, []), (3, ["--trainer.limit_predict_batches=2"])):
        assert cli("predict", "--ckpt_path", run, home, *options).code == 0
        files.append(Path(f"sums/version_{number}/predictions.csv").read_text().splitlines())
    assert files[1] == files[0][:9]


def test_training_does_not_notice_what_a_validation_draws(runs, tmp_path):
    both = runs[0], fit(tmp_path, experiment(limit_val_batches=0) | {"test_after_fit": False})
    states = [torch.load(run / "checkpoints/last.ckpt", weights_only=True)["state_dict"] for run in both]
    assert differences(*states) == []


def test_a_run_that_draws_in_its_validation_goes_on_to_the_same_bits(runs):
    whole, run = runs
    # Saved by the first validation, it holds the states of training.
    assert resume(run / "checkpoints/best.ckpt", f"--trainer.default_root_dir={run.parent.parent}") == 0
    assert run_differences(whole, run.parent / "version_1") == []
    assert resume(run) == 0
    assert run_differences(whole, run) == []
