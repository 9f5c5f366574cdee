"""Everyday options and fragments, each run once."""

from pathlib import Path

import pytest
import torch
import yaml

from tests.stopping import rows


def load(name="last", number=0):
    return torch.load(f"runs/sums/version_{number}/checkpoints/{name}.ckpt", weights_only=True)


def test_overfit_batches_repeats_the_same_rows(fit_sums):
    still = ("--model.optimizer.lr=0", "--trainer.check_val_every_n_epoch=9")
    fit_sums("--trainer.overfit_batches=1", "--trainer.max_epochs=3", *still)
    assert len({row["train/loss"] for row in rows(Path("runs/sums/version_0"))}) == 1
    assert load()["global_step"] == 3


def test_fast_dev_run_writes_no_checkpoint_and_profiler_its_table(fit_sums):
    fit_sums("--trainer.fast_dev_run=true", "debug/profiler.yaml")
    assert not Path("runs/sums/version_0/checkpoints").exists()
    assert "run_training_batch" in Path("runs/sums/version_0/fit-profile.txt").read_text()


def test_early_stopping_beside_callbacks_of_the_experiment(fit_sums, tmp_path):
    (tmp_path / "summary.yaml").write_text("trainer: {callbacks+: lightning.pytorch.callbacks.ModelSummary}")
    more = ("--model.optimizer.lr=0", "--trainer.max_epochs=9")
    fit_sums("callbacks/early_stopping.yaml", f"{tmp_path}/summary.yaml", *more)
    assert load()["epoch"] == 4  # the first validation, and three that were no better
    config = yaml.safe_load(Path("runs/sums/version_0/config.yaml").read_text())
    names = [entry["class_path"].rpartition(".")[2] for entry in config["trainer"]["callbacks"]]
    assert names == ["Stop", "EarlyStopping", "ModelSummary"]


def test_clipped_and_accumulated_gradients(fit_sums):
    still = ("--model.optimizer=torch.optim.SGD", "--model.optimizer.lr=1", "--trainer.accumulate_grad_batches=12")
    fit_sums(*still, "--trainer.max_epochs=1", "--trainer.gradient_clip_val=1e-3")
    fit_sums(*still, "--trainer.max_epochs=1", "--trainer.gradient_clip_val=1e-30")
    moved, start = load(number=0), load(number=1)
    assert moved["global_step"] == 1
    weights = [(weight, start["state_dict"][name]) for name, weight in moved["state_dict"].items()]
    length = sum(float((a - b).square().sum()) for a, b in weights) ** 0.5
    assert length == pytest.approx(1e-3, rel=1e-2)


def test_your_checkpoint_callback_writes_too(fit_sums, cli):
    more = ("--trainer.callbacks+=lightning.pytorch.callbacks.ModelCheckpoint", "--trainer.callbacks.filename=mine")
    fit_sums(*more, "--trainer.max_epochs=1")
    folder = Path("runs/sums/version_0/checkpoints")
    assert {file.name for file in folder.iterdir()} == {"best.ckpt", "last.ckpt", "mine.ckpt"}
    assert cli("test", "--ckpt_path", folder / "mine.ckpt").code == 0
