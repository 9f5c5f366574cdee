"""Trackers beside metrics.csv."""

import importlib.util
import sqlite3
from pathlib import Path
from typing import Any, ClassVar

import pytest
import yaml
from lightning.pytorch.loggers import Logger, TensorBoardLogger

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


def test_tensorboards_hp_metric_is_the_monitored_value_and_an_own_logger_gets_the_config(tmp_path):
    run = stopping.fit(tmp_path, stopping.config(logger={"class_path": "tests.engine.test_trackers.Noted"}))
    assert Noted.params["model"]["class_path"] == "src.module.LitModule"
    noted = [values["hp_metric"] for values in Noted.metrics if "hp_metric" in values]
    assert noted == [float(row["val/loss"]) for row in stopping.rows(run)]


class Noted(TensorBoardLogger):
    """Notes what it is told, in place of writing it."""

    params: ClassVar[dict[str, Any]] = {}
    metrics: ClassVar[list[dict[str, float]]] = []

    def __init__(self) -> None:
        Logger.__init__(self)

    name = version = save_dir = log_dir = ""
    experiment = None

    def log_hyperparams(self, params, *rest):
        Noted.params.update(params)

    def log_metrics(self, metrics, step=None):
        Noted.metrics.append(metrics)

    def log_graph(self, *rest):
        pass

    def save(self):
        pass

    def finalize(self, status):
        pass


class NotLoggedIn(Logger):
    """Fails at the first word, with a class of its own and many lines."""

    name = version = "mine"

    def log_hyperparams(self, params):
        raise _UsageError("api_key not configured.\nRun wandb login.")

    def log_metrics(self, metrics, step=None):
        pass


class _UsageError(Exception):
    pass


def test_a_tracker_without_a_login_is_one_line_before_training(tmp_path, capfd):
    run = stopping.fit(tmp_path, stopping.config(logger={"class_path": "tests.engine.test_trackers.NotLoggedIn"}))
    err = capfd.readouterr().err
    assert "error: NotLoggedIn: api_key not configured. Run wandb login." in err
    assert "Traceback" not in err
    assert not (run / "metrics.csv").exists()


@pytest.mark.slow
def test_a_resumed_run_goes_on_in_the_same_mlflow_run(tmp_path):
    if importlib.util.find_spec("mlflow") is None:
        pytest.skip("mlflow is not installed")
    (tmp_path / "sums.yaml").write_text(yaml.safe_dump(stopping.config(max_epochs=1)))
    for command in (
        ["fit", "--config", "sums.yaml", "--track.mlflow=sqlite:///mlflow.db"],
        ["fit", "--ckpt_path", "runs/sums/version_0", "--trainer.max_epochs=2"],
    ):
        done = run_process(*command, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
    with sqlite3.connect(tmp_path / "mlflow.db") as tables:
        assert tables.execute("select count(*) from runs").fetchone() == (1,)
