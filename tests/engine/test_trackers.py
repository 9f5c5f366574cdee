"""Trackers beside metrics.csv: what needs none of them to be installed; the rest is in test_trackers_real.py."""

import sys
from pathlib import Path
from typing import Any, ClassVar

import yaml
from lightning.pytorch.loggers import Logger, TensorBoardLogger

from src.engine.trackers import guard
from src.engine.trackers.media import send_picture
from src.engine.trackers.options import flat_options
from tests import stopping


def test_a_tracker_that_is_not_installed_is_one_line_before_anything_is_made(cli, monkeypatch):
    for module in ("wandb", "mlflow", "tensorboard", "tensorboardX"):
        monkeypatch.setitem(sys.modules, module, None)  # Python's own way to say that there is none
    Path("sums.yaml").write_text(yaml.safe_dump(stopping.config()))
    done = cli(
        "fit",
        "--config",
        "sums.yaml",
        "--track.wandb=offline",
        "--track.mlflow=sqlite:///m.db",
        "--track.tensorboard=true",
    )
    assert done.code != 0
    assert done.err == (
        "error: --track.tensorboard, --track.wandb, --track.mlflow: not installed. Do: python -m pip install "
        "tensorboard wandb mlflow; or go without: --track.tensorboard false --track.wandb null --track.mlflow null\n"
    )
    assert not Path("runs").exists()


def test_options_have_the_names_of_the_command_line_and_numbers_stay_numbers():
    config = {
        "model": {
            "class_path": "src.module.LitModule",
            "init_args": {
                "net": {"class_path": "Net", "init_args": {"hidden": 4, "sizes": [1, 2]}, "dict_kwargs": {"more": 1.5}},
                "scheduler": None,
                "metrics": {"acc": {"class_path": "Accuracy"}},
            },
        },
        "trainer": {"callbacks": [{"class_path": "Stop", "init_args": {"patience": 3}}], "fast_dev_run": False},
    }
    assert flat_options(config) == {
        "model": "src.module.LitModule",
        "model.net": "Net",
        "model.net.hidden": 4,
        "model.net.sizes": "[1, 2]",
        "model.net.more": 1.5,
        "model.scheduler": None,
        "model.metrics.acc": "Accuracy",
        "trainer.callbacks.0": "Stop",
        "trainer.callbacks.0.patience": 3,
        "trainer.fast_dev_run": False,
    }


def test_tensorboards_hp_metric_is_the_monitored_value_and_an_own_logger_gets_the_config(tmp_path):
    run = stopping.fit(tmp_path, stopping.config(logger={"class_path": "tests.engine.test_trackers.Noted"}))
    assert Noted.params["model.optimizer.lr"] == 0.01
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


class Down(Logger):
    """Its server is gone."""

    name = version = "mine"
    calls = 0

    def log_hyperparams(self, params):
        raise _UsageError("api_key not configured.\nRun wandb login.")

    def log_metrics(self, metrics, step=None):
        self.calls += 1
        raise _UsageError("The server\ndoes not answer.")


class _UsageError(Exception):
    pass


def test_a_tracker_without_a_login_is_one_line_before_training(tmp_path, capfd):
    run = stopping.fit(tmp_path, stopping.config(logger={"class_path": "tests.engine.test_trackers.Down"}))
    err = capfd.readouterr().err
    assert "error: Down: api_key not configured. Run wandb login." in err
    assert "Traceback" not in err
    assert not (run / "metrics.csv").exists()


def test_a_tracker_that_fails_is_told_once_left_alone_and_tried_again(capfd, monkeypatch):
    logger = Down()
    guard.forgive(logger)
    for _ in range(3):
        logger.log_metrics({"val/loss": 1.0}, step=1)
    told = "warning: Down: The server does not answer. The run goes on; metrics.csv has its numbers.\n"
    assert (logger.calls, capfd.readouterr().err) == (1, told)
    monkeypatch.setattr(guard, "PAUSE_S", 0.0)
    again = Down()
    guard.forgive(again)
    for _ in range(3):
        again.log_metrics({"val/loss": 1.0}, step=1)
    assert (again.calls, capfd.readouterr().err) == (3, told)


def test_a_picture_is_no_matter_for_a_logger_of_another_kind(tmp_path, capfd):
    send_picture([Down()], "square", tmp_path / "square.png", 1)
    assert capfd.readouterr().err == ""
