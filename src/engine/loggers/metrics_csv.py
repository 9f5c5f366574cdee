"""metrics.csv: a row per epoch and per validation, whatever the logger, exact across a resume."""

import csv
import sys
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor

from src.engine.loggers.rows_file import RowsFile
from src.engine.run.run import RunCallback, as_tested, metrics_of, stage_of


class MetricsCsv(RunCallback):
    """Writes `metrics.csv` into the run's folder, a row at a time.

    A checkpoint holds how many rows belong to it. A resumed run begins with these, of its own file or of the one beside
    the checkpoint's folder, and writes the later ones anew: each row stands there once, in the same folder or another.
    """

    def __init__(self) -> None:
        self._file = RowsFile(Path())
        self._last: dict[str, Any] = {}  # the row of the last epoch
        self._validated = False  # since the last row: Lightning keeps the numbers of an earlier validation
        self._loaded: dict[str, Any] = {}  # until training starts, which a finished run does not

    @property
    def state_key(self) -> str:
        """Where a checkpoint keeps the number of rows."""
        return "Metrics"

    def setup(self, trainer: Trainer, module: LightningModule, stage: str) -> None:
        self._stage = stage
        if stage == "fit" or self._file.path != self.run.folder / "metrics.csv":
            self._file = RowsFile(self.run.folder / "metrics.csv")

    def state_dict(self) -> dict[str, Any]:
        return {
            "num_rows": self._file.num_rows,
            "names": self._file.names,
            "last": self._last,
            "validated": self._validated,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        # The test after a fit loads the best checkpoint and its rows, too.
        if self._stage != "fit":
            return
        self._validated = state["validated"]
        if "rows" in state:  # of an older engine, whole
            self._last = state["rows"][-1] if state["rows"] else {}
            self._file.begin_with(state["rows"])
        else:
            self._last = state["last"]
            source = self.run.source or self.run.last
            beside = source.parent.parent / "metrics.csv" if source.parent.name == "checkpoints" else Path()
            self._file.begin_with_part(beside, state["num_rows"], state["names"])

    def on_load_checkpoint(self, trainer: Trainer, module: LightningModule, checkpoint: dict[str, Any]) -> None:
        self._loaded = checkpoint.get("metrics", {}) if self._stage == "fit" else {}

    def on_fit_end(self, trainer: Trainer, module: LightningModule) -> None:
        """Write the last epoch of a checkpoint that was saved at its very end: nothing is left to train."""
        if self._loaded:
            trainer.callback_metrics.update(self._loaded)
            self._add_epoch(trainer)
            self.on_train_start(trainer, module)

    def on_train_start(self, trainer: Trainer, module: LightningModule) -> None:
        self._loaded = {}
        # A run that goes on in another folder may have no further row.
        if trainer.is_global_zero and not self._file.path.exists():
            self._file.settle()

    def on_train_epoch_start(self, trainer: Trainer, module: LightningModule) -> None:
        """Write the epoch before: only now are its numbers complete."""
        self._add_epoch(trainer)

    def on_train_end(self, trainer: Trainer, module: LightningModule) -> None:
        """Write the last epoch."""
        self._add_epoch(trainer)

    def on_validation_end(self, trainer: Trainer, module: LightningModule) -> None:
        """Write a validation that stands by itself or amid an epoch; one at its end is a part of its row."""
        if trainer.sanity_checking:
            return  # on a resume the validation before the checkpoint counts
        if trainer.state.fn == "validate" or not trainer.is_last_batch:
            self._add(trainer, "val")
        else:
            self._validated = True
        self._write_tables(trainer, module, "val")

    def on_test_end(self, trainer: Trainer, module: LightningModule) -> None:
        """Write the test."""
        self._add(trainer, "test")
        self._write_tables(trainer, module, "test")
        renamed = [f"{name} as {as_tested(name)}" for name in trainer.callback_metrics if as_tested(name) != name]
        if renamed and trainer.is_global_zero:
            print(f"note: the test logs {', '.join(renamed)}", file=sys.stderr, flush=True)

    def _write_tables(self, trainer: Trainer, module: LightningModule, stage: str) -> None:
        """What a metric gave that is no number: matrices as CSV, curves as tensors."""
        for name, value in getattr(module, "tables", {}).items():
            if stage_of(name) == stage and trainer.is_global_zero and not trainer.sanity_checking:
                write_table(self.run.folder / name.replace("/", "_"), value)

    def _add_epoch(self, trainer: Trainer) -> None:
        self._add(trainer, "train", *(["val"] if self._validated else []))
        self._validated = False

    def _add(self, trainer: Trainer, *stages: str) -> None:
        own = trainer.state.fn != "fit"  # a stage by itself
        metrics = {name: value for name, value in metrics_of(trainer).items() if own or stage_of(name) in stages}
        row: dict[str, Any] = {"epoch": trainer.current_epoch, "step": trainer.global_step}
        if trainer.state.fn == "fit":
            groups = [group for optimizer in trainer.optimizers for group in optimizer.param_groups]
            row |= {f"lr/{number}" if number else "lr": float(group["lr"]) for number, group in enumerate(groups)}
        if not trainer.is_global_zero or not metrics or getattr(trainer, "fast_dev_run", False):
            return
        # A run resumed between two epochs comes by here a second time, perhaps at another learning rate.
        if stages[0] == "train":
            if self._last and (row["epoch"], row["step"]) == (self._last["epoch"], self._last["step"]):
                return
            self._last = row | metrics
        self._file.add(row | metrics)


def write_table(path: Path, value: Any) -> None:
    """Write a matrix as `<path>.csv`, anything else as `<path>.pt`."""
    if isinstance(value, Tensor) and value.dim() == 2:
        with path.with_name(f"{path.name}.csv").open("w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows(value.tolist())
    else:
        torch.save(value, path.with_name(f"{path.name}.pt"))
