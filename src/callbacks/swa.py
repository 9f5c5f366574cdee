"""Stochastic weight averaging: named in YAML, see configs/callbacks/swa.yaml."""

import math
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import WeightAveraging
from torch import Tensor

from src.engine.errors import UserError


class Swa(WeightAveraging):
    """Validates, tests and saves the mean of the weights at the ends of the last epochs; trains the weights themselves.

    Running statistics of batch norm are averaged like weights (Izmailov et al. 2018).

    Args:
        start: The part of the epochs after which averaging starts.
    """

    def __init__(self, start: float = 0.75) -> None:
        if not 0 <= start < 1:
            raise UserError(f"Swa: start={start} must be at least 0 and less than 1, a part of the epochs.")
        super().__init__(avg_fn=self._mean)
        self.start = start
        self._number = 0  # of epochs in the mean

    def on_train_batch_end(self, trainer: Trainer, module: LightningModule, *batch: Any) -> None:
        if not trainer.max_epochs or trainer.max_epochs < 0:
            raise UserError("Swa needs to know the last epochs. Set --trainer.max_epochs.")
        self._number = trainer.current_epoch - math.ceil(self.start * trainer.max_epochs)
        # At the end of an epoch, before it is validated. Until averaging starts, validation uses the current weights.
        if trainer.is_last_batch or self._number < 0:
            super().on_train_batch_end(trainer, module, *batch)

    def _mean(self, mean: Tensor, now: Tensor, _: Any) -> Tensor:
        return now if self._number <= 0 else mean + (now - mean) / (self._number + 1)
