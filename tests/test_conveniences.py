"""What one reaches for on an ordinary day: each an option or a fragment, each run once for real."""

import csv
import importlib.util
from pathlib import Path

import pytest
import torch
import yaml

from tests import stopping
from tests.conftest import CONFIGS, run_process


@pytest.fixture
def fit(cli, tmp_path):
    """Run the small experiment with options and fragments; its first run lies in runs/sums/version_0."""
    (tmp_path / "sums.yaml").write_text(yaml.safe_dump(stopping.config()))

    def run(*more):
        fragments = [word for name in more if name.endswith(".yaml") for word in ("--config", CONFIGS / name)]
        done = cli("fit", "--config", "sums.yaml", *fragments, *(word for word in more if not word.endswith(".yaml")))
        assert done.code == 0, done.err
        return done

    return run


def load(name="last", number=0):
    return torch.load(f"runs/sums/version_{number}/checkpoints/{name}.ckpt", weights_only=True)


def test_overfit_batches_repeats_the_same_rows(fit):
    done = fit("--trainer.overfit_batches=1", "--trainer.max_epochs=60")
    assert done.metrics["train/loss"] < 1
    assert load()["global_step"] == 60


def test_fast_dev_run_takes_a_step_of_each_stage_and_writes_no_checkpoint(fit):
    fit("--trainer.fast_dev_run=true")
    assert not Path("runs/sums/version_0/checkpoints").exists()


def test_the_profilers_table_lies_in_the_runs_folder(fit):
    fit("debug/profiler.yaml")
    assert "run_training_batch" in Path("runs/sums/version_0/fit-profile.txt").read_text()


def test_lr_range_names_a_rate_and_writes_all_of_them(fit):
    done = fit("debug/lr_range.yaml", "--trainer.max_epochs=20")
    (line,) = [line for line in done.out.splitlines() if line.startswith("lr ")]
    with Path("runs/sums/version_0/lr_range.csv").open() as file:
        rows = [{name: float(value) for name, value in row.items()} for row in csv.DictReader(file)]
    rates = [row["lr"] for row in rows]
    assert rates == sorted(rates)
    assert rates[0] == pytest.approx(1e-6)
    assert len(rows) <= 100
    assert 1e-4 < float(line.split()[1].rstrip(":")) < 1
    # It is a range in which the net learns.
    losses = [row["smoothed_loss"] for row in rows]
    assert min(losses) < 0.8 * max(losses[:-10])


def test_early_stopping_ends_the_run(fit):
    fit("callbacks/early_stopping.yaml", "--model.optimizer.lr=0", "--trainer.max_epochs=50")
    assert load()["epoch"] == 4  # the first validation, and three that were no better


def test_a_fragment_adds_its_callback_to_those_of_the_experiment(fit):
    fit("callbacks/early_stopping.yaml", "callbacks/ema.yaml")
    config = yaml.safe_load(Path("runs/sums/version_0/config.yaml").read_text())
    names = [entry["class_path"].rpartition(".")[2] for entry in config["trainer"]["callbacks"]]
    assert names == ["Stop", "EarlyStopping", "Ema"]


def test_clipped_gradients_bound_the_step(fit):
    still = ("--model.optimizer=torch.optim.SGD", "--model.optimizer.lr=1", "--trainer.max_steps=1")
    fit(*still, "--trainer.gradient_clip_val=1e-3")
    fit(*still, "--trainer.gradient_clip_val=1e-30")
    moved, start = load(number=0)["state_dict"], load(number=1)["state_dict"]
    length = sum(float((moved[name] - start[name]).square().sum()) for name in moved) ** 0.5
    assert length == pytest.approx(1e-3, rel=1e-2)


def test_accumulated_gradients_make_fewer_steps(fit):
    fit("--trainer.accumulate_grad_batches=4")
    assert load()["global_step"] == 3 * 12 / 4


def test_swa_saves_the_mean_and_resumes_and_tests_from_the_file(fit, cli):
    fit("callbacks/swa.yaml", "--trainer.max_epochs=4", "--model.optimizer=torch.optim.SGD", "--model.optimizer.lr=0.1")
    fit("--trainer.max_epochs=4", "--model.optimizer=torch.optim.SGD", "--model.optimizer.lr=0.1")
    plain, mean = load(number=1)["state_dict"], load(number=0)["state_dict"]
    assert not torch.equal(plain["net.0.weight"], mean["net.0.weight"])
    assert cli("test", "--ckpt_path", "runs/sums/version_0").code == 0


def test_ema_is_what_is_saved_validated_and_tested_in_the_same_run_and_from_the_file(fit, cli):
    done = fit("callbacks/ema.yaml", "--test_after_fit=true")
    saved = load("best")
    assert not torch.equal(saved["state_dict"]["net.0.weight"], saved["current_model_state"]["net.0.weight"])
    alone = cli("test", "--ckpt_path", "runs/sums/version_0/checkpoints/best.ckpt").metrics
    assert alone["test/loss"] == done.metrics["test/loss"]


def test_frozen_modules_keep_their_weights_until_their_epoch(fit, tmp_path):
    freeze = yaml.safe_load((CONFIGS / "callbacks/freeze.yaml").read_text())
    freeze["trainer"]["callbacks+"][0]["init_args"]["modules"] = ["net.0"]
    (tmp_path / "freeze.yaml").write_text(yaml.safe_dump(freeze))
    for epochs in (1, 2, 3):
        fit(f"{tmp_path}/freeze.yaml", f"--trainer.max_epochs={epochs}", "--trainer.num_sanity_val_steps=0")
    one, two, three = (load(number=number)["state_dict"] for number in range(3))
    assert torch.equal(one["net.0.weight"], two["net.0.weight"])
    assert not torch.equal(one["net.2.weight"], two["net.2.weight"])
    assert not torch.equal(two["net.0.weight"], three["net.0.weight"])


def test_freezing_what_is_not_there_names_what_is(cli, tmp_path):
    (tmp_path / "sums.yaml").write_text(yaml.safe_dump(stopping.config()))
    done = cli("fit", "--config", "sums.yaml", "--config", CONFIGS / "callbacks/freeze.yaml")
    assert done.code != 0
    assert "no module net.layers.1; there are net, net.0" in done.err


def test_tensorboard_writes_into_the_runs_folder(fit):
    pytest.importorskip("tensorboard")
    fit("--track.tensorboard=true", "--trainer.max_epochs=1", "--test_after_fit=true")
    written = b"".join(path.read_bytes() for path in Path("runs/sums/version_0").glob("events.out.tfevents.*"))
    assert b"val/loss" in written
    assert b"test/loss" in written
    assert Path("runs/sums/version_0/metrics.csv").is_file()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("package", "option", "left"),
    [
        ("wandb", "--track.wandb=offline", "runs/sums/version_0/wandb/offline-run-*/*.wandb"),
        ("mlflow", "--track.mlflow=sqlite:///mlflow.db", "mlflow.db"),
    ],
    ids=["wandb", "mlflow"],
)
def test_a_tracker_writes_beside_the_csv(tmp_path, package, option, left):
    if importlib.util.find_spec(package) is None:
        pytest.skip(f"{package} is not installed")
    (tmp_path / "sums.yaml").write_text(yaml.safe_dump(stopping.config()))
    done = run_process("fit", "--config", "sums.yaml", option, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    (written,) = tmp_path.glob(left)
    assert b"val/loss" in written.read_bytes()
    assert (tmp_path / "runs/sums/version_0/metrics.csv").is_file()


def test_a_tracker_that_is_not_installed_is_one_clear_error(cli, tmp_path, monkeypatch):
    from lightning.fabric.loggers import tensorboard

    for name in ("_TENSORBOARD_AVAILABLE", "_TENSORBOARDX_AVAILABLE"):
        monkeypatch.setattr(tensorboard, name, False)
    (tmp_path / "sums.yaml").write_text(yaml.safe_dump(stopping.config()))
    done = cli("fit", "--config", "sums.yaml", "--track.tensorboard=true")
    assert done.code != 0
    assert "tensorboard" in done.err
    assert "Traceback" not in done.err
