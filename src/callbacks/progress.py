"""Progress: a bar on a terminal, a line per epoch in a log file."""

import sys
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import TQDMProgressBar


class Progress(TQDMProgressBar):
    """Lightning's bar with the loss, the validation metrics and the speed; without a terminal one plain line an epoch.

    Args:
        refresh_rate: Batches between two updates of the bar; each costs about 0.3 ms.
    """

    def __init__(self, refresh_rate: int = 20) -> None:
        super().__init__(refresh_rate=refresh_rate)
        self._bar = sys.stdout.isatty()
        self._loss = float("nan")

    def setup(self, trainer: Trainer, module: LightningModule, stage: str) -> None:
        """Draw on a terminal only."""
        super().setup(trainer, module, stage)
        if not self._bar:
            self.disable()

    def on_train_batch_end(
        self, trainer: Trainer, module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Read the loss when the bar shows it and not more often: on a GPU reading waits for the device."""
        if self.is_enabled and (batch_idx + 1) % self.refresh_rate == 0:
            self._loss = float(outputs["loss"])
        super().on_train_batch_end(trainer, module, outputs, batch, batch_idx)

    def get_metrics(self, trainer: Trainer, module: LightningModule) -> dict[str, Any]:
        """What stands behind the bar."""
        metrics = trainer.callback_metrics
        return {"loss": f"{self._loss:.4f}"} | {
            name: f"{float(value):.4f}" for name, value in metrics.items() if name.startswith("val/")
        }

    def on_train_epoch_start(self, trainer: Trainer, *rest: Any) -> None:
        """Report the epoch before: only now are its numbers complete."""
        self._report(trainer, trainer.current_epoch)
        super().on_train_epoch_start(trainer, *rest)
        self.train_progress_bar.set_description(f"Epoch {trainer.current_epoch + 1}{self._of(trainer)}")

    def on_train_end(self, trainer: Trainer, *rest: Any) -> None:
        """Report the last epoch."""
        super().on_train_end(trainer, *rest)
        self._report(trainer, trainer.current_epoch)

    def _report(self, trainer: Trainer, epochs: int) -> None:
        metrics = trainer.callback_metrics
        if self._bar or not trainer.is_global_zero or "train/loss" not in metrics:
            return
        values = "  ".join(f"{name} {float(value):.4f}" for name, value in sorted(metrics.items()))
        print(f"epoch {epochs}{self._of(trainer)}  step {trainer.global_step}  {values}", flush=True)

    @staticmethod
    def _of(trainer: Trainer) -> str:
        return f"/{trainer.max_epochs}" if (trainer.max_epochs or -1) > 0 else ""
