"""Trackers beside metrics.csv."""

import importlib.util
from pathlib import Path

import pytest
import yaml

from tests import stopping
from tests.conftest import run_process
from tests.processes import XOR, launch, processes


def test_tensorboard_writes_into_the_runs_folder(fit_sums):
    pytest.importorskip("tensorboard")
    fit_sums("--track.tensorboard=true", "--trainer.max_epochs=1", "--test_after_fit=true")
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


@pytest.mark.slow
def test_two_processes_set_a_tracker_up_once(tmp_path):
    """MLflow makes its tables when it is first asked; two at once stumble over each other."""
    if importlib.util.find_spec("mlflow") is None:
        pytest.skip("mlflow is not installed")
    short = ("--data.batch_size=2", "--data.passes=5", "--trainer.max_epochs=1", "--track.mlflow=sqlite:///mlflow.db")
    done = launch("fit", *XOR, *processes(2), *short, cwd=tmp_path)
    assert done.stderr.count("Creating initial MLflow database tables") == 1
    assert b"val/loss" in (tmp_path / "mlflow.db").read_bytes()


def test_a_tracker_that_is_not_installed_is_one_clear_error(cli, tmp_path, monkeypatch):
    from lightning.fabric.loggers import tensorboard

    for name in ("_TENSORBOARD_AVAILABLE", "_TENSORBOARDX_AVAILABLE"):
        monkeypatch.setattr(tensorboard, name, False)
    (tmp_path / "sums.yaml").write_text(yaml.safe_dump(stopping.config()))
    done = cli("fit", "--config", "sums.yaml", "--track.tensorboard=true")
    assert done.code != 0
    assert "tensorboard" in done.err
    assert "Traceback" not in done.err
