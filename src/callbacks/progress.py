"""Progress: a line per epoch, and on a terminal a bar below it."""

import sys
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import TQDMProgressBar


class Progress(TQDMProgressBar):
    """A line per epoch; on a terminal Lightning's bar below it, with the loss, the validation metrics and the speed.

    Args:
        refresh_rate: Batches between two updates of the bar; each costs about 0.3 ms.
    """

    def __init__(self, refresh_rate: int = 20) -> None:
        super().__init__(refresh_rate=refresh_rate)
        self._bar = sys.stdout.isatty()
        self._loss: float | None = None

    def setup(self, trainer: Trainer, module: LightningModule, stage: str) -> None:
        """Draw on a terminal only."""
        super().setup(trainer, module, stage)
        if not self._bar:
            self.disable()

    def init_train_tqdm(self) -> Any:
        """A bar that is gone when its stage is done, like the two below."""
        return self._passing(super().init_train_tqdm())

    def init_test_tqdm(self) -> Any:
        return self._passing(super().init_test_tqdm())

    def init_predict_tqdm(self) -> Any:
        return self._passing(super().init_predict_tqdm())

    @staticmethod
    def _passing(bar: Any) -> Any:
        bar.leave = False
        return bar

    def on_train_batch_end(
        self, trainer: Trainer, module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Read the loss when the bar shows it and not more often: on a GPU reading waits for the device."""
        if self.is_enabled and ((batch_idx + 1) % self.refresh_rate == 0 or trainer.is_last_batch):
            # Lightning divides it for the accumulation of gradients.
            self._loss = float(outputs["loss"]) * trainer.accumulate_grad_batches
        super().on_train_batch_end(trainer, module, outputs, batch, batch_idx)

    def get_metrics(self, trainer: Trainer, module: LightningModule) -> dict[str, Any]:
        """What stands behind the bar."""
        loss = {} if self._loss is None else {"loss": self._loss}
        val = {name: float(value) for name, value in trainer.callback_metrics.items() if name.startswith("val/")}
        return {name: f"{value:.4f}" for name, value in (loss | val).items()}

    def on_train_epoch_start(self, trainer: Trainer, *rest: Any) -> None:
        """Report the epoch before: only now are its numbers complete."""
        self._report(trainer)
        super().on_train_epoch_start(trainer, *rest)
        self.train_progress_bar.set_description(f"Epoch {trainer.current_epoch + 1}{self._of(trainer)}")

    def on_train_end(self, trainer: Trainer, *rest: Any) -> None:
        """Report the last epoch."""
        super().on_train_end(trainer, *rest)
        self._report(trainer)

    def _report(self, trainer: Trainer) -> None:
        metrics = trainer.callback_metrics
        if not trainer.is_global_zero or "train/loss" not in metrics:
            return
        values = "  ".join(f"{name} {float(value):.4f}" for name, value in sorted(metrics.items()))
        said = f"epoch {trainer.current_epoch}{self._of(trainer)}  step {trainer.global_step}  {values}"
        if self._bar:
            self.train_progress_bar.write(said)  # above the bar
        else:
            print(said, flush=True)

    @staticmethod
    def _of(trainer: Trainer) -> str:
        return f"/{trainer.max_epochs}" if (trainer.max_epochs or -1) > 0 else ""
