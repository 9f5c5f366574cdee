"""Trackers beside metrics.csv: `--track.tensorboard true`, `--track.wandb offline`, `--track.mlflow sqlite:///m.db`."""

import functools
import os
import re
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Literal
from weakref import WeakSet

import numpy as np
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.loggers import Logger, MLFlowLogger, TensorBoardLogger, WandbLogger
from lightning.pytorch.loggers.logger import DummyLogger
from PIL import Image

from src.engine.errors import UserError, one_line
from src.engine.run.run import RunCallback

# What Lightning calls while a run trains; a failure there ends no run.
METHODS = ("log_metrics", "log_hyperparams", "log_graph", "save", "finalize", "after_save_checkpoint")
_failed: WeakSet[Logger] = WeakSet()  # each attempt at a server that is gone may take many seconds


class Trackers(RunCallback):
    """Sends the metrics and the config to the trackers that are turned on; each is a package to install.

    Args:
        tensorboard: Write TensorBoard's files into the run's folder; look at them with `make board`.
        wandb: Write a Weights & Biases run, project <experiment>; `wandb sync` sends one that was written offline. The
            group is its sweep or repeat.
        mlflow: Address of an MLflow server, or sqlite:///mlflow.db for a file. The experiment is <experiment>, the tag
            `group` its sweep or repeat.
    """

    def __init__(
        self, tensorboard: bool = False, wandb: Literal["online", "offline"] | None = None, mlflow: str | None = None
    ) -> None:
        options = {"tensorboard": tensorboard, "wandb": wandb, "mlflow": mlflow}
        self._options = {name: option for name, option in options.items() if option}
        self._made: dict[str, Logger] | None = None

    def needed(self) -> bool:
        """Return whether a tracker is turned on, or a logger of the user's own is to get the config."""
        return bool(self._options or self.run.config.get("trainer", {}).get("logger"))

    def setup(self, trainer: Trainer, module: LightningModule, stage: str) -> None:
        """Make the loggers once for a fit and its test: only now is the run's folder known."""
        if self._made is not None or getattr(trainer, "fast_dev_run", False):
            return
        self._made, users = {}, trainer.loggers
        if not trainer.is_global_zero:
            trainer.loggers = [*users, *(DummyLogger() for _ in self._options)]
            return
        try:
            for logger in users:
                logger.log_hyperparams(self.run.config)
            for name, option in self._options.items():
                self._made[name] = self._make(name, option)
                self._start(self._made[name], self.run.folder / f"{name}_id")
        except Exception as error:  # no package, no login, no server: each tracker has error classes of its own
            raise UserError(f"A tracker does not start: {one_line(error)}") from error
        trainer.loggers = [*users, *self._made.values()]

    def _make(self, name: str, option: Any) -> Logger:
        """Make the logger; the run's folder keeps the id by which a resumed run finds its run in the tracker."""
        folder, experiment, known = self.run.folder, self.run.config["experiment"], self.run.folder / f"{name}_id"
        number = known.read_text(encoding="utf-8") if known.exists() else None
        # Those of a sweep or a repeat lie in its folder, all others in that of their experiment.
        group = None if folder.parent.name == Path(experiment).name else folder.parent.name
        title = f"{group}/{folder.name}" if group else folder.name
        if name == "tensorboard":
            return TensorBoardLogger(folder, name="", version="")
        if name == "mlflow":
            # A server that is gone is given up after 15 seconds instead of five minutes.
            os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "3")
            tags = {"folder": str(folder)} | ({"group": group} if group else {})
            return MLFlowLogger(experiment, title, option, tags=tags, run_id=number)
        # W&B allows none of these in the name of a project, which is a part of its address.
        project, title = re.sub(r"[/\\#?%:]", "-", experiment)[:128], f"{experiment}-{title.replace('/', '-')}"
        more: Any = {"project": project, "group": group, "resume": "allow", "mode": option}
        return WandbLogger(title, folder, id=number, offline=option == "offline", **more)

    def _start(self, logger: Logger, known: Path) -> None:
        """Send the config before the run trains: without a login or a server this fails; later failures do not."""
        if not (isinstance(logger, MLFlowLogger) and known.exists()):  # MLflow lets no parameter change on a resume
            logger.log_hyperparams(self.run.config)
        if logger.version:
            known.write_text(str(logger.version), encoding="utf-8")
        if isinstance(logger, WandbLogger) and (parts := list(self.run.folder.glob("wandb/offline-run-*"))):
            # Each resume writes a part that numbers its rows from 0; a sync drops numbers that it knows.
            logger.experiment.log({}, step=(len(parts) - 1) * 1_000_000)
        for method in METHODS:
            setattr(logger, method, functools.partial(attempt, logger, getattr(logger, method)))

    def teardown(self, trainer: Trainer, module: LightningModule, stage: str) -> None:
        if not self.run.test_follows(stage):
            self._finish(failed=False)

    def on_exception(self, trainer: Trainer, module: LightningModule, exception: BaseException) -> None:
        self._finish(failed=True)

    def _finish(self, failed: bool) -> None:
        """End the run in W&B, which would write the next run of this process into the same one."""
        if self._made and "wandb" in self._made:
            import wandb

            attempt(self._made["wandb"], wandb.finish, exit_code=int(failed))


def attempt(logger: Logger, call: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """Call; report the first failure of this logger, and leave it alone from then on."""
    if logger in _failed:
        return None
    try:
        return call(*args, **kwargs)
    except Exception as error:  # each tracker has classes of its own
        _failed.add(logger)
        text = f"{type(logger).__name__}: {one_line(error).rstrip('.')}"
        print(f"warning: {text}. The run continues without it; metrics.csv has its numbers.", file=sys.stderr)


def send_picture(loggers: Iterable[Logger], name: str, path: Path, step: int) -> None:
    """Send a PNG to TensorBoard, W&B and MLflow, on rank zero."""
    with Image.open(path) as file:
        image = file.convert("RGB")
    for logger in loggers:
        if isinstance(logger, TensorBoardLogger):
            attempt(logger, logger.experiment.add_image, name, np.asarray(image), step, dataformats="HWC")
        elif isinstance(logger, WandbLogger):
            attempt(logger, logger.log_image, name, [image], step)
        elif isinstance(logger, MLFlowLogger):
            key = re.sub(r"[^A-Za-z0-9_./ -]", "_", name)  # it takes no other letters
            attempt(logger, logger.experiment.log_image, logger.run_id, image, key=key, step=step)
