"""metrics.csv: a row per epoch and per validation, for any logger; identical after a resume."""

import csv
from pathlib import Path
from typing import Any

from lightning.pytorch import LightningModule, Trainer

from src.engine.paths import write_whole
from src.engine.run.run import RunCallback, metrics_of, stage_of


class MetricsCsv(RunCallback):
    """Appends rows to `metrics.csv` in the run's folder; a row with a new name rewrites the file.

    A checkpoint holds the text of the file. A resumed run begins with that, and writes the later rows again: each row
    stands there once, in the same folder or another.
    """

    def __init__(self) -> None:
        self._last_epoch: list[int] = []  # epoch and step of the last row of training
        self._validated = False  # since the last row: Lightning keeps the numbers of an earlier validation
        self._text: str | None = None  # that of a checkpoint, until training starts

    @property
    def _path(self) -> Path:
        return self.run.folder / "metrics.csv"

    def state_dict(self) -> dict[str, Any]:
        text = self._path.read_bytes().decode() if self._path.is_file() else ""
        return {"text": text, "last_epoch": self._last_epoch, "validated": self._validated}

    def on_load_checkpoint(self, trainer: Trainer, module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Take over the state for a fit: the test after it loads the best checkpoint, whose rows do not count."""
        if trainer.state.fn == "fit" and (state := checkpoint["callbacks"].get(self.state_key)):
            self._text, self._last_epoch, self._validated = state["text"], state["last_epoch"], state["validated"]

    def on_train_start(self, trainer: Trainer, module: LightningModule) -> None:
        """Begin with the rows of the checkpoint."""
        if self._text is not None and trainer.is_global_zero:
            with write_whole(self._path) as part:
                part.write_bytes(self._text.encode())
        self._text = None

    def on_train_epoch_start(self, trainer: Trainer, module: LightningModule) -> None:
        """Write the epoch before: only now are its numbers complete."""
        self._add_epoch(trainer)

    def on_train_end(self, trainer: Trainer, module: LightningModule) -> None:
        self._add_epoch(trainer)

    def on_validation_end(self, trainer: Trainer, module: LightningModule) -> None:
        """Write a validation that stands by itself or within an epoch; one at its end is a part of its row."""
        if trainer.sanity_checking:
            return  # on a resume the validation before the checkpoint counts
        if trainer.state.fn == "validate" or not trainer.is_last_batch:
            self._add(trainer, "val")
        else:
            self._validated = True

    def on_test_end(self, trainer: Trainer, module: LightningModule) -> None:
        self._add(trainer, "test")

    def _add_epoch(self, trainer: Trainer) -> None:
        # A run resumed between two epochs comes by here a second time, perhaps at another learning rate.
        last_epoch = [trainer.current_epoch, trainer.global_step]
        if last_epoch != self._last_epoch and self._add(trainer, "train", *["val"] * self._validated):
            self._last_epoch = last_epoch
        self._validated = False

    def _add(self, trainer: Trainer, *stages: str) -> bool:
        """Add a row of the numbers of these stages; return whether there are any."""
        is_fit = trainer.state.fn == "fit"
        # In alphabetical order: a resumed run may log in another one.
        found = sorted(metrics_of(trainer).items())
        metrics = {name: value for name, value in found if not is_fit or stage_of(name) in stages}
        if not trainer.is_global_zero or not metrics or getattr(trainer, "fast_dev_run", False):
            return False
        row: dict[str, Any] = {"epoch": trainer.current_epoch, "step": trainer.global_step}
        if is_fit:
            groups = [group for optimizer in trainer.optimizers for group in optimizer.param_groups]
            row |= {f"lr/{number}" if number else "lr": float(group["lr"]) for number, group in enumerate(groups)}
        add_row(self._path, row | metrics)
        return True


def add_row(path: Path, row: dict[str, Any]) -> None:
    """Append a row to a CSV file; write the file anew where it lacks a column."""
    names: list[str] = []
    rows: list[dict[str, Any]] = []
    if path.is_file():
        with path.open(newline="", encoding="utf-8") as file:
            reader = csv.DictReader(file)
            names = list(reader.fieldnames or [])
            rows = [] if row.keys() <= set(names) else list(reader)
    if row.keys() <= set(names):
        with path.open("a", newline="", encoding="utf-8") as file:
            csv.DictWriter(file, names).writerow(row)
        return
    with write_whole(path) as part, part.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(dict.fromkeys([*names, *row])))
        writer.writeheader()
        writer.writerows([*rows, row])
