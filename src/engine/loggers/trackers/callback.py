"""Trackers beside metrics.csv: `--track.tensorboard true`, `--track.wandb offline`."""

import re
from typing import Any, Literal

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.loggers import Logger, MLFlowLogger, TensorBoardLogger, WandbLogger

from src.engine.config.text import resolved
from src.engine.errors import UserError, one_line
from src.engine.loggers.trackers.guard import Guard, forgive
from src.engine.loggers.trackers.kinds import check, make, mlflow_id
from src.engine.loggers.trackers.options import flat_options
from src.engine.run.run import RunCallback

# To so many characters Lightning cuts what it tells MLflow.
MLFLOW_LENGTH = 250
# More than a part has.
ROWS_OF_A_PART = 1_000_000


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
        self,
        tensorboard: bool = False,
        wandb: Literal["online", "offline"] | None = None,
        mlflow: str | None = None,
    ) -> None:
        options = {"tensorboard": tensorboard, "wandb": wandb, "mlflow": mlflow}
        self._asked = {name: option for name, option in options.items() if option}
        check(self._asked)
        self._made: list[Logger] | None = None
        self._begun: list[Logger] = []  # asked for its experiment, another one would begin

    def needed(self) -> bool:
        """Where one is turned on, or a logger of the user's own is to get the config."""
        return bool(self._asked or self.run.config.get("trainer", {}).get("logger"))

    def setup(self, trainer: Trainer, module: LightningModule, stage: str) -> None:
        """Make them once for a fit and its test: only now is the run's folder known."""
        if self._made is not None or getattr(trainer, "fast_dev_run", False):
            return
        # Rank zero is the first to set up what a tracker keeps on a disk.
        if not trainer.is_global_zero:
            trainer.strategy.barrier("track")
        experiment = self.run.config["experiment"]
        self._made = [make(name, option, self.run.folder, experiment) for name, option in self._asked.items()]
        trainer.loggers = [*trainer.loggers, *self._made]
        for logger in trainer.loggers if trainer.is_global_zero else []:
            self._tell_the_config(logger)
            self._begun.append(logger)
        for logger in self._made:
            forgive(logger)
        if trainer.is_global_zero:
            trainer.strategy.barrier("track")

    def _tell_the_config(self, logger: Logger) -> None:
        """The first word to a tracker: what it misses (a login, a server) ends the run before it trains."""
        options = flat_options(resolved(self.run.config))
        if isinstance(logger, MLFlowLogger):
            # MLflow allows few other characters in a name, and none of them everywhere.
            options = {re.sub(r"[^\w. -]", "_", name): value for name, value in options.items()}
        try:
            if isinstance(logger, MLFlowLogger) and logger in (self._made or []):
                self._tell_mlflow(logger, options)
            else:
                logger.log_hyperparams(options)
            if isinstance(logger, WandbLogger) and self._asked.get("wandb") == "offline":
                self._number_rows(logger)
        except (OSError, UserError):
            raise
        except Exception as error:  # each tracker has classes of its own
            raise UserError(f"{type(logger).__name__}: {one_line(error)}") from error

    def _tell_mlflow(self, logger: MLFlowLogger, options: dict[str, Any]) -> None:
        """A run's parameters cannot be changed there: what it was resumed with otherwise becomes a tag."""
        file, number = mlflow_id(self.run.folder), str(logger.run_id)
        known = logger.experiment.get_run(number).data.params if file.exists() else {}
        logger.log_hyperparams({name: value for name, value in options.items() if name not in known})
        for name, value in options.items():
            if name in known and known[name] != str(value)[:MLFLOW_LENGTH]:
                logger.experiment.set_tag(number, f"changed.{name}", str(value))
        if file.exists():
            logger.experiment.update_run(number, status="RUNNING")  # it was finished, or had failed
        file.write_text(number, encoding="utf-8")

    def _number_rows(self, logger: WandbLogger) -> None:
        """Offline W&B starts a part for each resume and numbers its rows from 0; a sync drops numbers that it knows."""
        parts = len(list(self.run.folder.glob("wandb/offline-run-*")))
        if parts > 1:
            logger.experiment.log({}, step=(parts - 1) * ROWS_OF_A_PART)

    def on_validation_end(self, trainer: Trainer, module: LightningModule) -> None:
        """TensorBoard compares runs by one number, `hp_metric`: the one that decides which checkpoint is best."""
        value = trainer.callback_metrics.get(self.run.monitor)
        if value is None or trainer.sanity_checking or trainer.state.fn != "fit":
            return
        for logger in trainer.loggers:
            if isinstance(logger, TensorBoardLogger):
                logger.log_metrics({"hp_metric": float(value)}, trainer.global_step)

    def teardown(self, trainer: Trainer, module: LightningModule, stage: str) -> None:
        """End the trackers' runs with the verb, so that a next one in this process gets its own."""
        if stage != "fit" or not self.run.config.get("test_after_fit"):
            self._end(failed=False)

    def on_exception(self, trainer: Trainer, module: LightningModule, exception: BaseException) -> None:
        self._end(failed=True)

    def _end(self, failed: bool) -> None:
        for logger in self._begun:
            if logger in (self._made or []):
                Guard(type(logger).__name__).around(_finish)(logger, failed)


def _finish(logger: Logger, failed: bool) -> None:
    if isinstance(logger, WandbLogger):
        logger.experiment.finish(exit_code=int(failed))
