"""A loss of NaN or infinity stops the run before it is saved, and says where and why."""

import math
import sys
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor

from src.engine.errors import UserError
from src.engine.run.run import RunCallback, stage_of


class Finite(RunCallback):
    """Stops on a loss that is NaN or infinite, and never lets a checkpoint hold NaN or infinite weights.

    On one CPU each loss is looked at before its gradients are computed. Elsewhere that would make the host wait for the
    device at every step: the losses are kept there and looked at every N batches and before each checkpoint.

    Args:
        enabled: Whether to look at all.
        every_n_batches: How often to look where looking costs time.
    """

    def __init__(self, enabled: bool = True, every_n_batches: int = 100) -> None:
        if every_n_batches < 1:
            raise UserError(f"every_n_batches={every_n_batches} must be at least 1. Set --finite.every_n_batches.")
        self.enabled = enabled
        self.every_n_batches = every_n_batches
        self._losses = torch.empty(0)
        self._steps: list[tuple[int, int, float]] = []
        self._told = False

    def on_validation_end(self, trainer: Trainer, module: LightningModule) -> None:
        """Say once that a validation gave no number: such a net is never the best one."""
        if self._told or trainer.sanity_checking or not trainer.is_global_zero:
            return
        values = {name: float(value) for name, value in trainer.callback_metrics.items() if stage_of(name) == "val"}
        if bad := [f"{name} is {value}" for name, value in values.items() if not math.isfinite(value)]:
            self._told = True
            told = f"warning: {', '.join(bad)} in the validation at step {trainer.global_step}."
            print(
                f"{told} A net is never the best by such a number. Look for NaN in the validation data.",
                file=sys.stderr,
            )

    def on_train_start(self, trainer: Trainer, module: LightningModule) -> None:
        self._at_once = module.device.type == "cpu" and trainer.world_size == 1
        self._losses = torch.zeros(self.every_n_batches, device=module.device)
        self._steps = []

    def on_before_backward(self, trainer: Trainer, module: LightningModule, loss: Tensor) -> None:
        if not self.enabled or (self._at_once and math.isfinite(loss.item())):
            return
        at = (trainer.global_step + 1, trainer.current_epoch, float(trainer.optimizers[0].param_groups[0]["lr"]))
        if self._at_once:
            raise self._error(loss.item(), *at)
        if len(self._steps) < self.every_n_batches:
            self._losses[len(self._steps)] = loss.detach()
            self._steps.append(at)

    def on_train_batch_end(
        self, trainer: Trainer, module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if len(self._steps) >= self.every_n_batches:
            self._look(trainer)

    def on_save_checkpoint(self, trainer: Trainer, module: LightningModule, checkpoint: dict[str, Any]) -> None:
        if not self.enabled:
            return
        self._look(trainer)
        # A gradient may overflow where its loss does not.
        bad = [name for name, value in module.named_parameters() if not value.isfinite().all()]
        if trainer.strategy.reduce_boolean_decision(bool(bad), all=False):
            raise UserError(
                f"After step {trainer.global_step} (epoch {trainer.current_epoch}) there are NaN or infinite weights, "
                f"though the loss is finite: {', '.join(bad)}. Not saved. {self._advice()}"
            )

    def _look(self, trainer: Trainer) -> None:
        losses, steps = self._losses[: len(self._steps)].cpu(), self._steps
        self._steps = []
        bad = [k for k, finite in enumerate(losses.isfinite().tolist()) if not finite]
        # One process alone must not leave: the others would wait for it.
        if trainer.world_size > 1 and not trainer.strategy.reduce_boolean_decision(bool(bad), all=False):
            return
        if bad:
            raise self._error(losses[bad[0]].item(), *steps[bad[0]])
        if trainer.world_size > 1:
            raise UserError("Another process met a loss that is not finite.")

    def _error(self, loss: float, step: int, epoch: int, lr: float) -> UserError:
        return UserError(f"The loss is {loss} at step {step} (epoch {epoch}, lr {lr:g}). {self._advice()}")

    def _advice(self) -> str:
        last = self.run.last
        good = f"The last good checkpoint is {last}. " if last.exists() else "There is no checkpoint yet. "
        return good + (
            "Lower the learning rate, clip the gradients (--trainer.gradient_clip_val 1), or look at the data; "
            "--finite.enabled false turns this check off."
        )
