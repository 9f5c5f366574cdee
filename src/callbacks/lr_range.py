"""A learning rate range test: see configs/debug/lr_range.yaml."""

from pathlib import Path
from typing import Any

import numpy as np
from lightning.pytorch import Callback, LightningModule, Trainer

from src.engine.data.order import batch_weight

AROUND = 5  # steps to either side over which a slope is taken


class LrRange(Callback):
    """Raises the learning rate with each step, writes lr_range.csv and prints at which rate the loss fell fastest.

    With accumulated gradients the loss of a step is that of its last batch. Lightning's own finder needs a module
    with an attribute `lr` and trains on with what it found; this one only reports (Smith, arXiv 1506.01186).

    Args:
        num_steps: Steps of the optimizer from the smallest to the largest rate; the run ends there.
        smallest: The first rate.
        largest: The last one, if the loss does not grow to four times its smallest value before.
    """

    def __init__(self, num_steps: int, smallest: float = 1e-6, largest: float = 10.0) -> None:
        self.num_steps = num_steps
        self.smallest = smallest
        self.largest = largest
        self._rows: list[tuple[float, float]] = []
        self._mean = 0.0
        self._first_step = 0

    def on_train_start(self, trainer: Trainer, module: LightningModule) -> None:
        self._first_step = trainer.global_step

    def on_train_batch_start(self, trainer: Trainer, module: LightningModule, *batch: Any) -> None:
        part = len(self._rows) / max(self.num_steps - 1, 1)
        for group in trainer.optimizers[0].param_groups:
            group["lr"] = self.smallest * (self.largest / self.smallest) ** part

    def on_train_batch_end(self, trainer: Trainer, module: LightningModule, outputs: Any, *batch: Any) -> None:
        if trainer.global_step - self._first_step == len(self._rows):  # the step has more batches
            return
        # The mean over processes, so that all stop at the same step. Lightning divided it by the batches of a step.
        mine = outputs["loss"] * trainer.accumulate_grad_batches * batch_weight(trainer)
        self._mean = 0.95 * self._mean + 0.05 * float(trainer.strategy.reduce(mine, reduce_op="mean"))
        smooth = self._mean / (1 - 0.95 ** (len(self._rows) + 1))
        self._rows.append((float(trainer.optimizers[0].param_groups[0]["lr"]), smooth))
        if len(self._rows) == self.num_steps or smooth > 4 * min(loss for _, loss in self._rows):
            trainer.should_stop = True

    def on_train_end(self, trainer: Trainer, module: LightningModule) -> None:
        if not trainer.is_global_zero:
            return
        if len(self._rows) <= 3 * AROUND:
            print(f"lr    {len(self._rows)} steps are too few to find a rate, {3 * AROUND + 1} are needed", flush=True)
            return
        path = Path(trainer.default_root_dir, "lr_range.csv")
        np.savetxt(path, self._rows, fmt="%.9g", delimiter=",", header="lr,smoothed_loss", comments="")
        losses = [loss for _, loss in self._rows]
        # The first means are those of a few batches: noise.
        places = range(2 * AROUND, len(losses) - AROUND)
        best = min(places, key=lambda k: losses[k + AROUND] - losses[k - AROUND])
        print(f"lr    {self._rows[best][0]:.2g}: there the loss falls fastest; all rates are in {path}", flush=True)
