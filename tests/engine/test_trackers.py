"""Trackers beside metrics.csv: what needs none of them to be installed; the rest is in test_trackers_real.py."""

import json
import sys
from pathlib import Path
from typing import Any, ClassVar

import pytest
import yaml
from lightning.pytorch.loggers import Logger, MLFlowLogger, TensorBoardLogger

from src.cli import main
from src.engine.loggers.trackers import guard, kinds
from src.engine.loggers.trackers.callback import Trackers
from src.engine.loggers.trackers.media import send_picture
from src.engine.loggers.trackers.options import flat_options
from src.engine.run.run import Run
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


@pytest.mark.parametrize(
    ("experiment", "folder", "group", "name"),
    [
        ("cats", "/p/runs/cats/version_3", "", "version_3"),
        ("cats", "/p/runs/cats/sweep_0/version_3", "sweep_0", "version_3"),
        ("cats", "/p/runs/cats/repeat_2/version_1/validate", "repeat_2", "version_1/validate"),
        ("pets/cats", "/p/runs/pets/cats/sweep_0/test_3", "sweep_0", "test_3"),
        ("runs", "/p/runs/runs/version_0", "", "version_0"),
        ("cats", "/p/big search/version_0", "big search", "version_0"),  # sweep --resume "big search"
    ],
)
def test_a_run_is_grouped_by_the_folder_between_its_experiment_and_its_own(experiment, folder, group, name):
    assert kinds.place(experiment, Path(folder)) == (group, name)


class Made(Logger):
    """In place of a tracker's own logger: keeps what it is made of."""

    kept: ClassVar[list[tuple[tuple[Any, ...], dict[str, Any]]]] = []
    name = version = "made"

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__()
        Made.kept.append((args, kwargs))

    def log_hyperparams(self, params):
        pass

    def log_metrics(self, metrics, step=None):
        pass


def test_trackers_name_the_experiment_and_group_the_runs_of_a_sweep(tmp_path, monkeypatch):
    for name in ("MLFlowLogger", "WandbLogger"):
        monkeypatch.setattr(kinds, name, Made)
    for name in ("mlflow", "wandb"):
        monkeypatch.setitem(kinds.PACKAGES, name, (name, (json.__name__,)))
    Made.kept.clear()
    (tmp_path / "sums.yaml").write_text(yaml.safe_dump(stopping.config(max_epochs=1)))
    words = ["fit", "--config", tmp_path / "sums.yaml", "--track.mlflow=sqlite:///m.db", "--track.wandb=offline"]
    for experiment in ("cats", "pets/c:ats?"):
        folder = tmp_path / "runs" / experiment / "sweep_0/version_3"
        main([*words, f"--experiment={experiment}"], folder=folder)
    found = [(args[0], args[1], kwargs["tags"].get("group")) for args, kwargs in Made.kept if "tags" in kwargs]
    assert found == [(name, "sweep_0/version_3", "sweep_0") for name in ("cats", "pets/c:ats?")]
    found = [(kwargs["project"], args[0], kwargs["group"]) for args, kwargs in Made.kept if "project" in kwargs]
    # In the address of a project W&B allows no mark of an address.
    assert found == [
        ("cats", "cats-sweep_0-version_3", "sweep_0"),
        ("pets-c-ats-", "pets/c:ats?-sweep_0-version_3", "sweep_0"),
    ]


def test_mlflow_gets_names_that_it_takes(tmp_path):
    class Named(MLFlowLogger):
        def __init__(self) -> None:
            self.params = {}

        def log_hyperparams(self, params):
            self.params = params

    logger, trackers = Named(), Trackers()
    trackers.run = Run(config={"data": {"names": {"acc@1 (top)": 3, "a/b": 4, "c-d": 5}}})
    trackers._tell_the_config(logger)
    assert logger.params == {"data.names.acc_1 _top_": 3, "data.names.a_b": 4, "data.names.c-d": 5}


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
