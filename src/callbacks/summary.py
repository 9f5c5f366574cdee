"""A few lines at the end: how it went, where it lies, what to type next."""

import time
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer


class Summary(Callback):
    """Prints wall time, speed, the best validation, the test, the run's folder and the next command."""

    def __init__(self) -> None:
        self._num_samples = 0
        self._start_s = self._train_start_s = self._train_s = 0.0

    def setup(self, trainer: Trainer, module: LightningModule, stage: str) -> None:
        """Start the clock."""
        self._start_s = time.perf_counter()

    def on_train_start(self, trainer: Trainer, module: LightningModule) -> None:
        """Start the clock of the speed."""
        self._train_start_s = time.perf_counter()

    def on_train_batch_end(
        self, trainer: Trainer, module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Count samples."""
        if isinstance(batch, tuple | list):
            self._num_samples += len(batch[0])

    def on_train_end(self, trainer: Trainer, module: LightningModule) -> None:
        """Stop the clock of the speed."""
        self._train_s = time.perf_counter() - self._train_start_s

    def teardown(self, trainer: Trainer, module: LightningModule, stage: str) -> None:
        """Print what the verb did; where a test follows a fit, the test ends the report."""
        if not trainer.is_global_zero:
            return
        checkpoint: Any = trainer.checkpoint_callback
        best = getattr(checkpoint, "best_model_path", "")
        if stage == "fit":
            speed = self._num_samples * trainer.world_size / max(self._train_s, 1e-9)
            print(
                f"fit   {time.perf_counter() - self._start_s:.1f} s, {count(trainer.current_epoch, 'epoch')}, "
                f"{count(trainer.global_step, 'step')}, {speed:,.0f} samples/s"
            )
            if getattr(checkpoint, "best_score", None) is not None:
                print(f"best  {checkpoint.monitor} {checkpoint.best_score:.4f}")
        values = {name: float(value) for name, value in trainer.callback_metrics.items()}
        if stage in ("validate", "test"):
            prefix = "val/" if stage == "validate" else "test/"
            shown = "  ".join(f"{name} {value:.4f}" for name, value in values.items() if name.startswith(prefix))
            print(f"{prefix[:-1]:<5} {shown}")
        if stage == "fit" and getattr(checkpoint, "config", {}).get("test_after_fit"):
            return
        print(f"run   {shorten(trainer.default_root_dir)}")
        if best:
            verb = "test" if stage == "fit" else "predict"
            wants_images = verb == "predict" and hasattr(getattr(trainer, "datamodule", None), "predict_path")
            images = " --data.predict_path digit.png" if wants_images else ""
            print(f"next  python -m src {verb} --ckpt_path {shorten(best)}{images}")


def count(number: int, what: str) -> str:
    """In words: "1 epoch", "1,080 steps"."""
    return f"{number:,} {what}{'s' * (number != 1)}"


def shorten(path: str) -> Path:
    """The path as seen from the current folder."""
    there, here = Path(path).absolute(), Path.cwd()
    return there.relative_to(here) if there.is_relative_to(here) else there
