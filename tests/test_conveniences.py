"""What one reaches for on an ordinary day: each an option or a fragment, each run once for real."""

from pathlib import Path

import pytest
import torch
import yaml

from tests.conftest import SMALL


def load(name="last", number=0):
    return torch.load(f"runs/sums/version_{number}/checkpoints/{name}.ckpt", weights_only=True)


def test_overfit_batches_repeats_the_same_rows(fit_sums):
    done = fit_sums("--trainer.overfit_batches=1", "--trainer.max_epochs=60")
    assert done.metrics["train/loss"] < 1
    assert load()["global_step"] == 60


def test_fast_dev_run_takes_a_step_of_each_stage_and_writes_no_checkpoint(fit_sums):
    fit_sums("--trainer.fast_dev_run=true")
    assert not Path("runs/sums/version_0/checkpoints").exists()


def test_the_profilers_table_lies_in_the_runs_folder(fit_sums):
    fit_sums("debug/profiler.yaml")
    assert "run_training_batch" in Path("runs/sums/version_0/fit-profile.txt").read_text()


def test_early_stopping_ends_the_run(fit_sums):
    fit_sums("callbacks/early_stopping.yaml", "--model.optimizer.lr=0", "--trainer.max_epochs=50")
    assert load()["epoch"] == 4  # the first validation, and three that were no better


def test_a_fragment_adds_its_callback_to_those_of_the_experiment(fit_sums, tmp_path):
    (tmp_path / "summary.yaml").write_text("trainer: {callbacks+: lightning.pytorch.callbacks.ModelSummary}")
    fit_sums("callbacks/early_stopping.yaml", f"{tmp_path}/summary.yaml")
    config = yaml.safe_load(Path("runs/sums/version_0/config.yaml").read_text())
    names = [entry["class_path"].rpartition(".")[2] for entry in config["trainer"]["callbacks"]]
    assert names == ["Stop", "EarlyStopping", "ModelSummary"]


def test_clipped_gradients_bound_the_step(fit_sums):
    still = ("--model.optimizer=torch.optim.SGD", "--model.optimizer.lr=1", "--trainer.max_steps=1")
    fit_sums(*still, "--trainer.gradient_clip_val=1e-3")
    fit_sums(*still, "--trainer.gradient_clip_val=1e-30")
    moved, start = load(number=0)["state_dict"], load(number=1)["state_dict"]
    length = sum(float((moved[name] - start[name]).square().sum()) for name in moved) ** 0.5
    assert length == pytest.approx(1e-3, rel=1e-2)


def test_accumulated_gradients_make_fewer_steps(fit_sums):
    fit_sums("--trainer.accumulate_grad_batches=4")
    assert load()["global_step"] == 3 * 12 / 4


def test_a_checkpoint_callback_of_ones_own_writes_beside_ours(fit_sums, cli):
    more = ("--trainer.callbacks+=lightning.pytorch.callbacks.ModelCheckpoint", "--trainer.callbacks.filename=mine")
    fit_sums(*more, "--trainer.max_epochs=1")
    folder = Path("runs/sums/version_0/checkpoints")
    assert {file.name for file in folder.iterdir()} == {"best.ckpt", "last.ckpt", "mine.ckpt"}
    for file in folder.iterdir():
        assert cli("test", "--ckpt_path", file).code == 0


@pytest.mark.parametrize(
    ("name", "instead"),
    [
        ("LearningRateFinder", "lr_range.yaml"),
        ("BackboneFinetuning", "freeze.yaml"),
        ("LearningRateMonitor", "--track.tensorboard true"),
        ("DeviceStatsMonitor", "--track.tensorboard true"),
        ("ModelCheckpoint", ""),
        pytest.param("BatchSizeFinder", "", marks=pytest.mark.slow),
        ("ModelSummary", ""),
    ],
)
def test_callbacks_of_lightnings_work_beside_ours_or_one_line_says_what_to_use_instead(name, instead, cli):
    steps = ("--trainer.max_epochs=1", "--data.passes=20")
    done = cli("fit", "--config", SMALL, *steps, f"--trainer.callbacks+=lightning.pytorch.callbacks.{name}")
    errors = [line for line in done.err.splitlines() if line.startswith("error")]
    assert done.code == (1 if instead else 0), done.err
    assert len(errors) == (1 if instead else 0)
    assert instead in "".join(errors)
    assert "Traceback" not in done.err
