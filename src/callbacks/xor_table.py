"""A table of the loss and the four predictions while XOR is learned."""

from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor

from src.data.xor import INPUTS, TARGETS
from src.engine.data.order import batch_weight


class XorTable(Callback):
    """Prints the loss and the four hard predictions at step 1 and every few steps, and the outputs at the end.

    Args:
        every_n_steps: Steps between two lines.
    """

    def __init__(self, every_n_steps: int) -> None:
        self.every_n_steps = every_n_steps
        self._hard: list[int] = []

    def _due(self, step: int) -> bool:
        return step == 1 or step % self.every_n_steps == 0

    def on_train_batch_start(self, trainer: Trainer, module: LightningModule, batch: Any, batch_idx: int) -> None:
        # Before the step, so that loss and predictions come from the same weights.
        if self._due(trainer.global_step + 1):
            self._hard = (scores_of(module) > 0.5).int().flatten().tolist()

    def on_train_batch_end(
        self, trainer: Trainer, module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if self._due(trainer.global_step):
            # Each process has the loss of its own rows.
            loss = trainer.strategy.reduce(outputs["loss"] * batch_weight(trainer, module), reduce_op="mean")
            module.print(f"step {trainer.global_step:>5}  loss {loss.item():.4f}  predictions {self._hard}")

    def on_train_end(self, trainer: Trainer, module: LightningModule) -> None:
        module.print("input   output  truth")
        for x, score, target in zip(INPUTS, scores_of(module), TARGETS, strict=True):
            module.print(f"{x[0]:.0f} {x[1]:.0f}     {score.item():.3f}   {target.item():.0f}")


def scores_of(module: LightningModule) -> Tensor:
    """Return the probabilities of a 1, (4, 1) float32 on the CPU."""
    with torch.no_grad():
        return module(INPUTS.to(next(module.parameters()))).sigmoid().float().cpu()
