"""Trackers beside metrics.csv, in the run's folder: `--track.tensorboard true`, `--track.wandb offline`."""

import uuid
from pathlib import Path
from typing import Literal

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.loggers import Logger, MLFlowLogger, TensorBoardLogger, WandbLogger

from src.engine.configs.text import resolved
from src.engine.errors import UserError, one_line
from src.engine.instances import construct
from src.engine.run import RunCallback


class Trackers(RunCallback):
    """Sends the metrics and the config to the trackers that are turned on; each is a package to install.

    Args:
        tensorboard: Write TensorBoard's files; look at them with `tensorboard --logdir runs`.
        wandb: Write a Weights & Biases run, project <experiment>; `wandb sync` sends one that was written offline.
        mlflow: Address of an MLflow server, or sqlite:///mlflow.db for a file.
    """

    def __init__(
        self, tensorboard: bool = False, wandb: Literal["online", "offline"] | None = None, mlflow: str | None = None
    ) -> None:
        self.tensorboard = tensorboard
        self.wandb = wandb
        self.mlflow = mlflow
        self._made = False

    def needed(self) -> bool:
        """Where one is turned on, or a logger of the user's own is to get the config."""
        own = self.run.config.get("trainer", {}).get("logger")
        return bool(self.tensorboard or self.wandb or self.mlflow or own)

    def setup(self, trainer: Trainer, module: LightningModule, stage: str) -> None:
        """Make them once for a fit and its test: only now is the run's folder known."""
        if self._made or getattr(trainer, "fast_dev_run", False):
            return
        self._made = True
        # Rank zero is the first to set up what a tracker keeps on a disk.
        if not trainer.is_global_zero:
            trainer.strategy.barrier("track")
        trainer.loggers = [*trainer.loggers, *self._make(self.run.folder)]
        for logger in trainer.loggers:
            self._tell_the_config(logger)
        if trainer.is_global_zero:
            trainer.strategy.barrier("track")

    def _tell_the_config(self, logger: Logger) -> None:
        """The first word to a tracker: what it misses (a login, a server) ends the run before it trains."""
        try:
            if not isinstance(logger, MLFlowLogger):
                logger.log_hyperparams(resolved(self.run.config))
            elif not self._mlflow_id.exists():  # a run's parameters cannot be changed
                logger.log_hyperparams(resolved(self.run.config))
                if logger.run_id:  # rank zero has it
                    self._mlflow_id.write_text(logger.run_id, encoding="utf-8")
        except (OSError, UserError):
            raise
        except Exception as error:  # each tracker has classes of its own
            how = " Log in with `wandb login`, or write offline: --track.wandb offline." if self.wandb else ""
            raise UserError(f"{type(logger).__name__}: {one_line(error)}{how}") from error

    @property
    def _mlflow_id(self) -> Path:
        """Names the run that a resume goes on with."""
        return self.run.folder / "mlflow_id"

    def on_validation_end(self, trainer: Trainer, module: LightningModule) -> None:
        """TensorBoard compares runs by one number, `hp_metric`: the one that decides which checkpoint is best."""
        value = trainer.callback_metrics.get(self.run.monitor)
        if value is None or trainer.sanity_checking or trainer.state.fn != "fit":
            return
        for logger in trainer.loggers:
            if isinstance(logger, TensorBoardLogger):
                logger.log_metrics({"hp_metric": float(value)}, trainer.global_step)

    def _make(self, folder: Path) -> list[Logger]:
        made: list[Logger] = []
        if self.tensorboard:
            made.append(construct(TensorBoardLogger, folder, name="", version=""))
        if self.wandb:
            offline, project = self.wandb == "offline", folder.parent.name
            # The same run goes on when it is resumed.
            file = folder / "wandb_id"
            if not file.exists():
                file.write_text(uuid.uuid4().hex[:8])
            made.append(
                construct(
                    WandbLogger,
                    f"{project}-{folder.name}",
                    folder,
                    id=file.read_text(),
                    project=project,
                    offline=offline,
                    resume="allow",
                )
            )
        if self.mlflow:
            known = self._mlflow_id.read_text(encoding="utf-8") if self._mlflow_id.exists() else None
            tags = {"folder": str(folder)}
            made.append(construct(MLFlowLogger, folder.parent.name, folder.name, self.mlflow, tags=tags, run_id=known))
        return made
