"""Trackers beside metrics.csv: `--track.tensorboard true`, `--track.wandb offline`, `--track.mlflow sqlite:///m.db`."""

import functools
import importlib.util
import os
import re
import sys
import time
import uuid
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Literal
from weakref import WeakKeyDictionary

import numpy as np
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.loggers import Logger, MLFlowLogger, TensorBoardLogger, WandbLogger
from lightning.pytorch.utilities import rank_zero_only

from src.engine.config.compose import resolved
from src.engine.config.parser import construct
from src.engine.errors import UserError, one_line
from src.engine.run.run import RunCallback

# By the name of the option and of the package: the modules, of which one has to be there.
MODULES = {"tensorboard": ("tensorboard", "tensorboardX"), "wandb": ("wandb",), "mlflow": ("mlflow",)}
ROWS_OF_A_PART = 1_000_000  # more than a part of an offline W&B run has
# What Lightning calls while a run trains; a failure there ends no run.
METHODS = ("log_metrics", "log_hyperparams", "log_graph", "save", "finalize", "after_save_checkpoint")
PAUSE_S = 60.0  # each attempt at a server that is gone may take many seconds
_paused_until_s: WeakKeyDictionary[Logger, float] = WeakKeyDictionary()


class Trackers(RunCallback):
    """Sends the metrics and the config to the trackers that are turned on; each is a package to install.

    Args:
        tensorboard: Write TensorBoard's files into the run's folder; look at them with `make board`.
        wandb: Write a Weights & Biases run, project <experiment>; `wandb sync` sends one that was written offline. The
            group is its sweep or repeat.
        mlflow: Address of an MLflow server, or sqlite:///mlflow.db for a file. The experiment is <experiment>, the tag
            `group` its sweep or repeat.

    Raises:
        UserError: If a package is missing.
    """

    def __init__(
        self, tensorboard: bool = False, wandb: Literal["online", "offline"] | None = None, mlflow: str | None = None
    ) -> None:
        options = {"tensorboard": tensorboard, "wandb": wandb, "mlflow": mlflow}
        self._options = {name: option for name, option in options.items() if option}
        self._made: list[Logger] | None = None
        if missing := [name for name in self._options if not any(map(importlib.util.find_spec, MODULES[name]))]:
            given, packages = ", ".join(f"--track.{name}" for name in missing), " ".join(missing)
            raise UserError(f"{given}: not installed. Leave it out, or do: python -m pip install {packages}")

    def needed(self) -> bool:
        """Return whether a tracker is turned on, or a logger of the user's own is to get the config."""
        return bool(self._options or self.run.config.get("trainer", {}).get("logger"))

    def setup(self, trainer: Trainer, module: LightningModule, stage: str) -> None:
        """Make the loggers once for a fit and its test: only now is the run's folder known."""
        if self._made is not None or getattr(trainer, "fast_dev_run", False):
            return
        # Rank zero is the first to set up what a tracker keeps on a disk.
        if not trainer.is_global_zero:
            trainer.strategy.barrier("track")
        experiment = self.run.config["experiment"]
        self._made = [make(name, option, self.run.folder, experiment) for name, option in self._options.items()]
        trainer.loggers = [*trainer.loggers, *self._made]
        if trainer.is_global_zero:
            for logger in trainer.loggers:
                self._send_config(logger)
            trainer.strategy.barrier("track")
        for logger in self._made:
            for name in METHODS:
                setattr(logger, name, functools.partial(attempt, logger, getattr(logger, name)))

    def _send_config(self, logger: Logger) -> None:
        """Send a tracker the config first: what it misses (a login, a server) ends the run before it trains."""
        options = flat_options(resolved(self.run.config))
        is_ours, number = logger in (self._made or []), self.run.folder / "mlflow_id"
        try:
            if isinstance(logger, MLFlowLogger):
                # MLflow allows few other characters in a name, and none of them everywhere.
                options = {re.sub(r"[^\w. -]", "_", name): value for name, value in options.items()}
            if is_ours and isinstance(logger, MLFlowLogger) and number.exists():
                # The parameters of a run in MLflow never change.
                logger.experiment.update_run(str(logger.run_id), status="RUNNING")
            else:
                logger.log_hyperparams(options)
            if is_ours and isinstance(logger, MLFlowLogger):
                number.write_text(str(logger.run_id), encoding="utf-8")
            if is_ours and isinstance(logger, WandbLogger) and self._options["wandb"] == "offline":
                # Each resume writes a part that numbers its rows from 0; a sync drops numbers that it knows.
                num_parts = len(list(self.run.folder.glob("wandb/offline-run-*")))
                logger.experiment.log({}, step=(num_parts - 1) * ROWS_OF_A_PART)
        except (OSError, UserError):
            raise
        except Exception as error:  # each tracker has classes of its own
            raise UserError(f"{type(logger).__name__}: {one_line(error)}") from error

    def on_validation_end(self, trainer: Trainer, module: LightningModule) -> None:
        """Send TensorBoard the number by which it compares runs: the one that decides which checkpoint is best."""
        value = trainer.callback_metrics.get(self.run.monitor)
        if value is not None and trainer.state.fn == "fit" and not trainer.sanity_checking:
            for logger in trainer.loggers:
                if isinstance(logger, TensorBoardLogger):
                    logger.log_metrics({"hp_metric": float(value)}, trainer.global_step)

    def teardown(self, trainer: Trainer, module: LightningModule, stage: str) -> None:
        if stage != "fit" or not self.run.config.get("test_after_fit"):
            self._finish(failed=False)

    def on_exception(self, trainer: Trainer, module: LightningModule, exception: BaseException) -> None:
        self._finish(failed=True)

    def _finish(self, failed: bool) -> None:
        """End the run in W&B, which would write the next run of this process into the same one."""
        for logger in self._made or []:
            if isinstance(logger, WandbLogger):
                import wandb

                attempt(logger, wandb.finish, exit_code=int(failed))


def make(name: str, option: Any, folder: Path, experiment: str) -> Logger:
    """Make the logger of a tracker; the run's folder keeps the id by which a resumed run finds its run there."""
    group, run = group_and_name(experiment, folder)
    if name == "tensorboard":
        logger: Logger = construct(TensorBoardLogger, folder, name="", version="")
    elif name == "mlflow":
        # A server that is gone is given up after 15 seconds instead of five minutes at each call.
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "3")
        known = folder / "mlflow_id"
        number = known.read_text(encoding="utf-8") if known.exists() else None
        title, tags = f"{group}/{run}".strip("/"), {"folder": str(folder)} | ({"group": group} if group else {})
        logger = construct(MLFlowLogger, experiment, title, option, tags=tags, run_id=number)
    else:
        known = folder / "wandb_id"
        if not known.exists():
            known.write_text(uuid.uuid4().hex[:8], encoding="utf-8")
        more = {"id": known.read_text(encoding="utf-8"), "resume": "allow", "group": group or None}
        # W&B allows none of these in the name of a project, which stands in its address.
        more |= {"project": re.sub(r"[/\\#?%:]", "-", experiment)[:128], "offline": option == "offline", "mode": option}
        logger = construct(WandbLogger, "-".join(filter(None, [experiment, group, run])), folder, **more)
    return logger


def group_and_name(experiment: str, folder: Path) -> tuple[str, str]:
    """Split a run's folder: runs/<experiment>/sweep_0/version_3 gives "sweep_0" and "version_3".

    The group of runs/<experiment>/version_3 is empty, that of a folder elsewhere the folder above it.
    """
    _, found, rest = folder.as_posix().rpartition(f"/{experiment}/")
    *group, name = rest.split("/", maxsplit=1) if found else (folder.parent.name, folder.name)
    return "".join(group), name


def flat_options(config: Any, name: str = "") -> dict[str, Any]:
    """Return every option under its name on the command line: `model.optimizer` a class, `model.optimizer.lr` a number.

    A list of classes is numbered, `trainer.callbacks.0`; another list is a text.
    """
    if isinstance(config, list) and any(isinstance(part, dict) for part in config):
        config = dict(enumerate(config))
    if not isinstance(config, dict):
        return {name: str(config) if isinstance(config, list) else config}
    flat: dict[str, Any] = {}
    if "class_path" in config:
        flat[name] = config["class_path"]
        config = {**config.get("init_args", {}), **config.get("dict_kwargs", {})}
    for key, part in config.items():
        flat |= flat_options(part, f"{name}.{key}" if name else str(key))
    return flat


def attempt(logger: Logger, call: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """Call; report the first failure of this logger, leave it alone for a minute after each."""
    if time.monotonic() < _paused_until_s.get(logger, 0.0):
        return None
    try:
        return call(*args, **kwargs)
    except Exception as error:  # each tracker has classes of its own
        if logger not in _paused_until_s:
            text = f"{type(logger).__name__}: {one_line(error).rstrip('.')}"
            print(f"warning: {text}. The run continues; metrics.csv has its numbers.", file=sys.stderr, flush=True)
        _paused_until_s[logger] = time.monotonic() + PAUSE_S


@rank_zero_only
def send_picture(loggers: Iterable[Logger], name: str, path: Path, step: int) -> None:
    """Send a PNG under its name to the loggers of a kind that is known here."""
    from PIL import Image

    with Image.open(path) as file:
        image = file.convert("RGB")
    for logger in loggers:
        if isinstance(logger, TensorBoardLogger):
            attempt(logger, logger.experiment.add_image, name, np.asarray(image), step, dataformats="HWC")
        elif isinstance(logger, WandbLogger):
            attempt(logger, logger.log_image, name, [image], step)
        elif isinstance(logger, MLFlowLogger):
            # It takes few letters; two names stay two.
            key = re.sub(r"[^A-Za-z0-9_./ -]", lambda found: f"_{ord(found[0]):x}", name)
            attempt(logger, logger.experiment.log_image, logger.run_id, image, key=key, step=step)
