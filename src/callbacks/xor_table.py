"""A table of the loss and the four predictions while XOR is learned."""

from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor

from src.data.xor import INPUTS, TARGETS


class XorTable(Callback):
    """Prints the loss and the four hard predictions at step 1 and every few steps, and the outputs at the end.

    Args:
        every_n_steps: Steps between two lines.
    """

    def __init__(self, every_n_steps: int) -> None:
        self.every_n_steps = every_n_steps

    def on_train_batch_start(self, trainer: Trainer, module: LightningModule, batch: Any, batch_idx: int) -> None:
        # Before the step, so that loss and predictions come from the same weights.
        step = trainer.global_step + 1
        if step == 1 or step % self.every_n_steps == 0:
            logits = logits_of(module)
            loss = module.loss(logits, TARGETS.to(logits))
            predictions = (logits > 0).int().flatten().tolist()
            module.print(f"step {step:>5}  loss {loss.item():.4f}  predictions {predictions}")

    def on_train_end(self, trainer: Trainer, module: LightningModule) -> None:
        module.print("input   output  truth")
        for x, score, target in zip(INPUTS, logits_of(module).sigmoid(), TARGETS, strict=True):
            module.print(f"{x[0]:.0f} {x[1]:.0f}     {score.item():.3f}   {target.item():.0f}")


def logits_of(module: LightningModule) -> Tensor:
    """Return the logits of the four rows, (4, 1)."""
    with torch.no_grad():
        return module(INPUTS.to(next(module.parameters())))
