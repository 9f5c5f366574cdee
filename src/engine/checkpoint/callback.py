"""Write a run's checkpoints at points from which a resume is exact; end a run that got a signal."""

import math
import sys
import time
from contextlib import nullcontext
from typing import Any, Literal

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint
from torch.serialization import get_unsafe_globals_in_checkpoint

from src.engine.checkpoint.files import read_plain
from src.engine.errors import UserError
from src.engine.lightning_fixes.loops import reset_loop_counters, step_plateau
from src.engine.lightning_fixes.trainer import writes_a_folder
from src.engine.paths import write_whole
from src.engine.run.run import RunCallback
from src.engine.run.stop import ASK_EVERY_N_BATCHES, leave


class RunCheckpoint(Checkpoint, RunCallback):
    """Writes `checkpoints/last.ckpt` and `checkpoints/best.ckpt` into the run's folder.

    `last` is written every N steps, between epochs, at the end and at a signal; `best` after each validation that
    improves on the best one so far. Both are written only where a resume loses no batch and no validation.

    Args:
        monitor: The validation metric that chooses the best checkpoint.
        mode: Direction of the metric; by default that of torchmetrics, and min for a loss.
        every_n_steps: Optimizer steps between two `last` checkpoints within an epoch.
        every_minutes: Time between two of them, if steps are slow.
    """

    def __init__(
        self,
        monitor: str = "val/loss",
        mode: Literal["min", "max"] | None = None,
        every_n_steps: int = 1_000,
        every_minutes: float = 10.0,
    ) -> None:
        self.monitor = monitor
        self.mode = mode
        self.every_n_steps = every_n_steps
        self.every_minutes = every_minutes
        self._saved_s, self._saved_at = time.monotonic(), (0, 0)  # the time; step and epoch
        self._due = self._best_due = self._warned = False

    def setup(self, trainer: Trainer, module: LightningModule, stage: str) -> None:
        if stage == "fit":
            self.run.monitor = self.monitor
            if writes_a_folder(trainer.strategy):
                full = "state_dict_type: full (FSDP), or save_distributed_checkpoint: false (ModelParallelStrategy)"
                raise UserError(f"A checkpoint would be a folder. Set in the strategy {full}.")

    def on_train_start(self, trainer: Trainer, module: LightningModule) -> None:
        refuse_wrong_directions(trainer, module)
        if self.monitor != "val/loss" and not trainer.enable_validation:
            self._miss_monitor(trainer, "is no validation")
        # A ModelCheckpoint of the user's may save there.
        ends = trainer.fit_loop.batch_idx + 1 == trainer.num_training_batches
        if trainer.fit_loop.epoch_loop.restarted_on_train_batch_end and (ends or self._validation_follows(trainer)):
            raise UserError(
                f"{self.run.source} was saved right before a validation or the end of an epoch, which a resumed run "
                "would skip. Resume from last.ckpt of that run, or from a checkpoint of another step."
            )

    def after_train_batch(self, trainer: Trainer) -> None:
        passed = trainer.global_step - self._saved_at[0] >= self.every_n_steps
        self._due |= passed or self.run.stop > 0 or self._late(trainer)
        # A run resumed from here would leave out a validation that follows: let that one save.
        if self._due and not self._validation_follows(trainer):
            self._save_due(trainer)

    def _late(self, trainer: Trainer) -> bool:
        late = trainer.global_step > 0 and time.monotonic() - self._saved_s > 60 * self.every_minutes
        asks = trainer.world_size == 1 or trainer.fit_loop.total_batch_idx % ASK_EVERY_N_BATCHES == 0
        return asks and bool(trainer.strategy.broadcast(late))

    @staticmethod
    def _validation_follows(trainer: Trainer) -> bool:
        if not trainer.enable_validation or not isinstance(trainer.val_check_batch, int):
            return False
        loop = trainer.fit_loop
        seen = loop.total_batch_idx if trainer.check_val_every_n_epoch is None else loop.batch_idx
        return (seen + 1) % trainer.val_check_batch == 0

    def after_validation(self, trainer: Trainer) -> None:
        if trainer.state.fn != "fit":
            return
        if self.monitor in trainer.callback_metrics:
            if not trainer.sanity_checking:
                self._compare(trainer)
        # In the sanity check Lightning forgets what it logs for each of several data sets.
        elif not (trainer.sanity_checking and len(trainer.num_sanity_val_batches) > 1):
            self._miss_monitor(trainer, f"are {', '.join(sorted(trainer.callback_metrics)) or 'no numbers'}")
        self._save_due(trainer)

    def _miss_monitor(self, trainer: Trainer, there: str) -> None:
        message = f"checkpoint.monitor={self.monitor!r} is not logged; there {there}. Set --checkpoint.monitor."
        if self.monitor != "val/loss":
            raise UserError(message)
        if trainer.is_global_zero and not self._warned:
            print(f"warning: no best.ckpt will be saved: {message}", file=sys.stderr, flush=True)
        self._warned = True

    def _compare(self, trainer: Trainer) -> None:
        """Save the best checkpoint, if this validation is the best one so far."""
        # All take the score of rank zero: they save together or not at all.
        score = trainer.strategy.broadcast(float(trainer.callback_metrics[self.monitor]))
        larger = (self.mode or best_mode(trainer.lightning_module, self.monitor)) == "max"
        best = self.run.best_score
        if math.isfinite(score) and (best is None or (score > best if larger else score < best)):
            self.run.best_score = score
            self._best_due = trainer.fit_loop.done  # before the last batch: a run resumed from here would not know
            if not self._best_due:
                self._save(trainer, "best.ckpt")

    def on_train_epoch_start(self, trainer: Trainer, module: LightningModule) -> None:
        self._save_last(trainer)  # only now is everything done that ends the epoch before

    def on_train_epoch_end(self, trainer: Trainer, module: LightningModule) -> None:
        step_plateau(trainer)

    def on_train_end(self, trainer: Trainer, module: LightningModule) -> None:
        if self._best_due:
            self._save(trainer, "best.ckpt")
        self._save_last(trainer)

    def on_save_checkpoint(self, trainer: Trainer, module: LightningModule, checkpoint: dict[str, Any]) -> None:
        checkpoint |= {"config": self.run.config, "best_score": self.run.best_score}
        reset_loop_counters(checkpoint["loops"]["fit_loop"], trainer)

    def on_load_checkpoint(self, trainer: Trainer, module: LightningModule, checkpoint: dict[str, Any]) -> None:
        # A run in a new folder has a best checkpoint of its own.
        if self.run.source and self.run.source.absolute() == self.run.last:
            self.run.best_score = checkpoint["best_score"]
            self._saved_at = (checkpoint["global_step"], checkpoint["epoch"])

    def _save_due(self, trainer: Trainer) -> None:
        # The end of an epoch saves when it is done, and gradients are part of no checkpoint.
        accumulating = (trainer.fit_loop.batch_idx + 1) % trainer.accumulate_grad_batches != 0
        if self._due and not (trainer.is_last_batch or trainer.fit_loop.done or accumulating):
            self._save_last(trainer)

    def _save_last(self, trainer: Trainer) -> None:
        at = (trainer.global_step, trainer.current_epoch)
        if self._saved_at != at:
            self._save(trainer, "last.ckpt")
        self._saved_at, self._saved_s, self._due = at, time.monotonic(), False
        if self.run.stop:
            leave(trainer, self.run)

    def _save(self, trainer: Trainer, name: str) -> None:
        """Save beside the old file, then replace it; all processes call it together."""
        if getattr(trainer, "fast_dev_run", False):
            return
        target = self.run.last.with_name(name)
        with write_whole(target) if trainer.is_global_zero else nullcontext(target) as part:
            trainer.save_checkpoint(part)
            if trainer.is_global_zero and get_unsafe_globals_in_checkpoint(part):
                read_plain(part)  # refuses what could run code now, not when it is needed
        trainer.strategy.barrier("checkpoint")


def best_mode(module: Any, name: str) -> str | None:
    """Return whether a logged number (`val/acc`, `val/acc/night`) is best at its `min` or `max`; None if unknown."""
    metric = name.split("/")[1] if "/" in name else ""
    metrics: Any = getattr(module, "metrics", {})
    better = getattr(metrics[metric], "higher_is_better", None) if metric in metrics else None
    return "min" if metric == "loss" or better is False else "max" if better else None


def refuse_wrong_directions(trainer: Trainer, module: LightningModule) -> None:
    """Refuse early stopping and plateaus that take an improvement for its opposite, and plateaus of steps."""
    watchers: list[tuple[Any, Any, str]] = [(each, each.monitor, "") for each in trainer.early_stopping_callbacks]
    plateaus = [config for config in trainer.lr_scheduler_configs if config.reduce_on_plateau]
    for watcher, monitor, interval in watchers + [(each.scheduler, each.monitor, each.interval) for each in plateaus]:
        name, mode = type(watcher).__name__, best_mode(module, monitor or "")
        if interval == "step":  # Lightning moves it after the checkpoint is saved
            raise UserError(
                f"{name} with interval: step cannot be resumed exactly. Set the scheduler's interval to epoch."
            )
        if mode and getattr(watcher, "mode", mode) != mode:
            raise UserError(f"{name} watches {monitor} with mode: {watcher.mode}. Set mode: {mode}.")
