"""An error from within a step says at its end what went in: shapes, dtypes, net and loss."""

import traceback
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor

STEP = Path(__file__).parents[1] / "module.py"


class Shapes(Callback):
    """Adds a note below the traceback of an error that torch, or our own step, raises over a batch."""

    def __init__(self) -> None:
        self._batch = ""

    def setup(self, trainer: Trainer, module: LightningModule, stage: str) -> None:
        """Forget the batches of another verb."""
        self._batch = ""

    def on_train_batch_start(self, trainer: Trainer, module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Note the first batch."""
        self._batch = self._batch or describe(batch)

    def on_validation_batch_start(self, trainer: Trainer, module: LightningModule, batch: Any, *rest: Any) -> None:
        """Note the first batch."""
        self._batch = self._batch or describe(batch)

    def on_test_batch_start(self, trainer: Trainer, module: LightningModule, batch: Any, *rest: Any) -> None:
        """Note the first batch."""
        self._batch = self._batch or describe(batch)

    def on_predict_batch_start(self, trainer: Trainer, module: LightningModule, batch: Any, *rest: Any) -> None:
        """Note the first batch."""
        self._batch = self._batch or describe(batch)

    def on_exception(self, trainer: Trainer, module: LightningModule, exception: BaseException) -> None:
        """Add the note; Python prints it last."""
        frames = traceback.extract_tb(exception.__traceback__)
        raised_in = Path(frames[-1].filename) if frames else Path()
        if self._batch and (Path(torch.__file__).parent in raised_in.parents or raised_in == STEP):
            net, loss = type(getattr(module, "net", module)).__name__, type(getattr(module, "loss", None)).__name__
            exception.add_note(f"net {net}, loss {loss}; a batch was {self._batch}")


def describe(batch: Any) -> str:
    """In words: "x (512, 1, 28, 28) float32, target (512,) int64"."""
    names = ("x", "target") if isinstance(batch, tuple | list) and len(batch) == 2 else ()
    values = batch if isinstance(batch, tuple | list) else [batch]
    said = [
        f"{tuple(value.shape)} {str(value.dtype).removeprefix('torch.')}"
        if isinstance(value, Tensor)
        else type(value).__name__
        for value in values
    ]
    return ", ".join(f"{name} {what}" for name, what in zip(names, said, strict=True)) if names else ", ".join(said)
