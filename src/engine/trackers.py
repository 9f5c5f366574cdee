"""Trackers beside metrics.csv, in the run's folder: `--track.tensorboard true`, `--track.wandb offline`."""

import uuid
from pathlib import Path
from typing import Literal

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.loggers import Logger, MLFlowLogger, TensorBoardLogger, WandbLogger

from src.engine.errors import construct
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
        """Where one is turned on."""
        return bool(self.tensorboard or self.wandb or self.mlflow)

    def setup(self, trainer: Trainer, module: LightningModule, stage: str) -> None:
        """Make them once for a fit and its test: only now is the run's folder known."""
        if self._made or getattr(trainer, "fast_dev_run", False):
            return
        self._made = True
        # Rank zero is the first to set up what a tracker keeps on a disk.
        if not trainer.is_global_zero:
            trainer.strategy.barrier("track")
        made = self._make(self.run.folder)
        for logger in made:
            logger.log_hyperparams(self.run.config)
        if trainer.is_global_zero:
            trainer.strategy.barrier("track")
        trainer.loggers = [*trainer.loggers, *made]

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
            tags = {"folder": str(folder)}
            made.append(construct(MLFlowLogger, folder.parent.name, folder.name, self.mlflow, tags=tags))
        return made
