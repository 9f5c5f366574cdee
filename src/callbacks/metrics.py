"""metrics.csv: a row per epoch and per validation, whatever the logger, exact across a resume."""

import csv
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer


class Metrics(Callback):
    """Writes `metrics.csv` into the run's folder.

    The number of rows is part of a checkpoint. A resumed run keeps that many and writes the later ones anew: each row
    stands there once.
    """

    def __init__(self) -> None:
        self._rows: list[dict[str, Any]] = []
        self._keep = 0

    def setup(self, trainer: Trainer, module: LightningModule, stage: str) -> None:
        """Find the file."""
        self._path = Path(trainer.default_root_dir, "metrics.csv")

    def state_dict(self) -> dict[str, Any]:
        """How many rows there are."""
        return {"rows": len(self._rows)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Remember how many rows to keep."""
        self._keep = state["rows"]

    def on_train_start(self, trainer: Trainer, module: LightningModule) -> None:
        """Take up the rows from before a resume."""
        if self._keep and self._path.exists():
            with self._path.open(newline="") as file:
                self._rows = list(csv.DictReader(file))[: self._keep]

    def on_train_epoch_start(self, trainer: Trainer, module: LightningModule) -> None:
        """Write the epoch before: only now are its numbers complete."""
        self._add(trainer, "train/", "val/")

    def on_train_end(self, trainer: Trainer, module: LightningModule) -> None:
        """Write the last epoch."""
        self._add(trainer, "train/", "val/")

    def on_validation_end(self, trainer: Trainer, module: LightningModule) -> None:
        """Write a validation that stands by itself or amid an epoch."""
        if trainer.state.fn == "validate" or not (trainer.sanity_checking or trainer.is_last_batch):
            self._add(trainer, "val/")

    def on_test_end(self, trainer: Trainer, module: LightningModule) -> None:
        """Write the test."""
        self._add(trainer, "test/")

    def _add(self, trainer: Trainer, *prefixes: str) -> None:
        metrics = {name: float(v) for name, v in trainer.callback_metrics.items() if name.startswith(prefixes)}
        row: dict[str, Any] = {"epoch": trainer.current_epoch, "step": trainer.global_step}
        if trainer.state.fn == "fit" and trainer.optimizers:
            row["lr"] = trainer.optimizers[0].param_groups[0]["lr"]
        written = self._rows and (str(self._rows[-1]["epoch"]), str(self._rows[-1]["step"]))
        if not trainer.is_global_zero or not metrics or getattr(trainer, "fast_dev_run", False):
            return
        if prefixes[0] == "train/" and written == (str(row["epoch"]), str(row["step"])):
            return
        self._rows.append(row | metrics)
        names = list(dict.fromkeys(name for row in self._rows for name in row))
        # Whole and then moved: a kill amid the writing leaves the file of before.
        part = self._path.with_suffix(".part")
        with part.open("w", newline="") as file:
            writer = csv.DictWriter(file, names)
            writer.writeheader()
            writer.writerows(self._rows)
        part.replace(self._path)
