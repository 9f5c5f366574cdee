"""Stop a run at a NaN or infinite loss, before it is saved, and say where and why."""

import math
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor

from src.engine.errors import UserError
from src.engine.run.run import RunCallback

EVERY_N_BATCHES = 100


class Finite(RunCallback):
    """Stops at a NaN or infinite loss, and never lets a checkpoint hold NaN or infinite weights.

    To read each loss at once would wait for a GPU at every step. They are kept, and checked every 100 batches, after an
    epoch and before each checkpoint.

    Args:
        enabled: Whether to check at all.
    """

    def __init__(self, enabled: bool = True) -> None:
        self.enabled = enabled
        self._losses: list[tuple[Tensor, str]] = []

    def needed(self) -> bool:
        return self.enabled

    def on_before_backward(self, trainer: Trainer, module: LightningModule, loss: Tensor) -> None:
        lr = float(trainer.optimizers[0].param_groups[0]["lr"])
        at = f"step {trainer.global_step + 1} (epoch {trainer.current_epoch}, lr {lr:g})"
        self._losses.append((loss.detach(), at))
        if len(self._losses) >= EVERY_N_BATCHES:
            self._check(trainer)

    def on_train_epoch_end(self, trainer: Trainer, module: LightningModule) -> None:
        self._check(trainer)

    def on_save_checkpoint(self, trainer: Trainer, module: LightningModule, checkpoint: dict[str, Any]) -> None:
        self._check(trainer)
        # A gradient may overflow where its loss does not.
        bad = [name for name, value in module.named_parameters() if not value.isfinite().all()]
        at = f"After step {trainer.global_step} (epoch {trainer.current_epoch})"
        weights = f"NaN or infinite weights, though the loss is finite: {', '.join(bad)}"
        self._stop_if(trainer, bad, f"{at} there are {weights}. Not saved.")

    def _check(self, trainer: Trainer) -> None:
        losses, self._losses = self._losses, []
        values = torch.stack([loss for loss, _ in losses]).tolist() if losses else []
        bad = [f"{value} at {at}" for value, (_, at) in zip(values, losses, strict=True) if not math.isfinite(value)]
        self._stop_if(trainer, bad, f"The loss is {bad[0] if bad else 'not finite on another process'}.")

    def _stop_if(self, trainer: Trainer, bad: list[str], why: str) -> None:
        """Raise if one of the processes found something bad; all call it at the same step, and leave together."""
        if trainer.strategy.reduce_boolean_decision(bool(bad), all=False):
            last = self.run.last
            raise UserError(
                f"{why} {f'The last good checkpoint is {last}' if last.exists() else 'There is no checkpoint yet'}. "
                "Lower the learning rate, clip the gradients (--trainer.gradient_clip_val 1), or look at the data; "
                "--finite.enabled false turns this check off."
            )
