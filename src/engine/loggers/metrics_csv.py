"""metrics.csv: a row per epoch and per validation, for any logger; identical after a resume."""

import csv
import sys
from itertools import islice
from pathlib import Path
from typing import Any

from lightning.pytorch import LightningModule, Trainer

from src.engine.paths import write_whole
from src.engine.run.run import RunCallback, metrics_of, stage_of

Row = dict[str, Any]


class MetricsCsv(RunCallback):
    """Appends rows to `metrics.csv` in the run's folder; a row with a new name rewrites the file.

    A checkpoint holds how many rows belong to it. A resumed run begins with these, from the file beside the checkpoint,
    and writes the later ones again: each row stands there once, in the same folder or another.
    """

    def __init__(self) -> None:
        self._names: list[str] = []
        self._num_rows = 0
        self._last_epoch: list[int] = []  # epoch and step of the last row of training
        self._validated = False  # since the last row: Lightning keeps the numbers of an earlier validation
        self._source: Path | None = None  # the file with the rows of a checkpoint, until they are written
        self._loaded: dict[str, Any] = {}  # the metrics of a checkpoint, until training starts

    @property
    def _path(self) -> Path:
        return self.run.folder / "metrics.csv"

    def state_dict(self) -> dict[str, Any]:
        rows = {"num_rows": self._num_rows, "names": self._names}
        return rows | {"last_epoch": self._last_epoch, "validated": self._validated}

    def on_load_checkpoint(self, trainer: Trainer, module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Take over the state for a fit: the test after it loads the best checkpoint, whose rows do not count."""
        state = checkpoint["callbacks"].get(self.state_key)
        if trainer.state.fn != "fit" or state is None:
            return
        self._num_rows, self._names = state["num_rows"], state["names"]
        self._last_epoch, self._validated = state["last_epoch"], state["validated"]
        self._loaded = checkpoint.get("metrics", {})
        saved = self.run.source or self.run.last
        self._source = (saved.parent.parent if saved.parent.name == "checkpoints" else self.run.folder) / "metrics.csv"

    def on_train_start(self, trainer: Trainer, module: LightningModule) -> None:
        """Begin with the rows of the checkpoint."""
        self._loaded = {}
        if self._source is None or not trainer.is_global_zero:
            return
        rows = read_rows(self._source, self._num_rows)
        if len(rows) < self._num_rows:
            which = f"of the {self._num_rows} rows that the checkpoint has {self._num_rows - len(rows)} are lost"
            print(f"warning: {which}: {self._source} has {len(rows)}.", file=sys.stderr, flush=True)
        if self._names:
            self._write(rows)
        self._source = None

    def on_fit_end(self, trainer: Trainer, module: LightningModule) -> None:
        """Write the last epoch of a checkpoint that was saved at its very end: nothing is left to train."""
        if self._loaded:
            trainer.callback_metrics.update(self._loaded)
            self.on_train_start(trainer, module)
            self._add_epoch(trainer)

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

    def on_test_start(self, trainer: Trainer, module: LightningModule) -> None:
        """Find the rows of the fit: a process that was spawned for the test does not know them."""
        if self.run.verb == "fit" and self._path.is_file():
            with self._path.open(newline="", encoding="utf-8") as file:
                self._names, *rows = csv.reader(file)
            self._num_rows = len(rows)

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
        row: Row = {"epoch": trainer.current_epoch, "step": trainer.global_step}
        if is_fit:
            groups = [group for optimizer in trainer.optimizers for group in optimizer.param_groups]
            row |= {f"lr/{number}" if number else "lr": float(group["lr"]) for number, group in enumerate(groups)}
        row |= metrics
        names = list(dict.fromkeys([*self._names, *row]))
        if names != self._names or not self._path.is_file():
            self._names = names
            self._write([*read_rows(self._path, self._num_rows), row])
        else:
            with self._path.open("a", newline="", encoding="utf-8") as file:
                csv.DictWriter(file, self._names).writerow(row)
            self._num_rows += 1
        return True

    def _write(self, rows: list[Row]) -> None:
        with write_whole(self._path) as part, part.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, self._names)
            writer.writeheader()
            writer.writerows(rows)
        self._num_rows = len(rows)


def read_rows(path: Path, most: int) -> list[Row]:
    """Return the first rows of a file; none if there is no file."""
    if not path.is_file():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        return [{name: value for name, value in row.items() if value} for row in islice(csv.DictReader(file), most)]
