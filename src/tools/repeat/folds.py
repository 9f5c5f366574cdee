"""The validation of a run's best checkpoint, and what the net of a fold says of the samples that it has not seen."""

import csv
import json
import sys
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor
from torch.utils.data import RandomSampler

from src import cli
from src.tools.repeat.plan import Plan, refuse

TOLD = "validation.json"  # of a run: its metrics
FILE = "out_of_fold.csv"
MAX_COLUMNS = 64  # of a sample; `predict` writes as many


class Unseen(Callback):
    """Keeps what `predict_step` makes of each batch of a validation: a column for each number of a sample.

    Attributes:
        columns: By name; None once there was something else.
    """

    def __init__(self) -> None:
        self.columns: dict[str, list[float]] | None = {}

    def on_validation_batch_end(
        self, trainer: Trainer, module: LightningModule, outputs: Any, batch: Any, batch_idx: int, *rest: Any
    ) -> None:
        if self.columns is None or why_not(trainer, module):
            return
        new = columns(trainer.strategy.predict_step(batch, batch_idx))
        if new is None or (self.columns and new.keys() != self.columns.keys()):
            self.columns = None
            return
        for name, values in new.items():
            self.columns.setdefault(name, []).extend(values)


def why_not(trainer: Any, module: LightningModule) -> str:
    """Why there can be no predictions, in words."""
    data, kind, loader = type(trainer.datamodule).__name__, type(module), trainer.val_dataloaders
    if getattr(trainer.datamodule, "val_rows", None) is None:
        return f"{data} has no attribute val_rows, the rows that val_dataloader gives, in its order"
    if isinstance(loader, dict | list | tuple):
        return f"{data} has several validation loaders"
    sampler = getattr(getattr(loader, "loader", None), "sampler", None)
    if getattr(loader, "shuffle", False) or isinstance(sampler, RandomSampler):
        return f"{data}.val_dataloader shuffles"
    return f"{kind.__name__} has no predict_step" if kind.predict_step is LightningModule.predict_step else ""


def validate(run: Path, plan: Plan) -> None:
    """Validate the best checkpoint of a run, on one device; in folds write the predictions for the validation part.

    What it finds lies in the run's folder, the metrics last.
    """
    best = run / "checkpoints" / "best.ckpt"
    best = best if best.exists() else best.with_name("last.ckpt")
    device = ["--trainer.accelerator", plan.accelerator, "--trainer.devices", "1"]
    unseen = Unseen()
    callbacks = [unseen] if plan.kind == "fold" else []
    done = cli.main(["validate", "--ckpt_path", best, *device], callbacks, run / "validate")
    metrics = {name: float(value) for name, value in done.trainer.callback_metrics.items()}
    if plan.kind == "fold" and (rows := table(done, unseen.columns)):
        write(run / FILE, rows)
    (run / TOLD).with_suffix(".part").write_text(json.dumps(metrics), encoding="utf-8")
    (run / TOLD).with_suffix(".part").replace(run / TOLD)


def table(done: cli.CLI, told: dict[str, list[float]] | None) -> list[dict[str, Any]]:
    """A row for each sample of the validation part; none, and a line that says why, where that cannot be."""
    why = why_not(done.trainer, done.model)
    if why or not told:
        why = why or f"predict_step gives no tensors with up to {MAX_COLUMNS} numbers a sample"
        print(f"note: no {FILE}: {why}", file=sys.stderr, flush=True)
        return []
    rows, values = torch.as_tensor(done.datamodule.val_rows).tolist(), list(zip(*told.values(), strict=True))
    if len(values) != len(rows):
        data = type(done.datamodule).__name__
        refuse(f"{data}.val_rows are {len(rows)}, val_dataloader gives {len(values)}: they must be the same.")
    return [{"row": row} | dict(zip(told, of, strict=True)) for row, of in zip(rows, values, strict=True)]


def columns(outputs: Any) -> dict[str, list[float]] | None:
    """What `predict_step` returned for a batch; None of what fits no table.

    Args:
        outputs: (B, ...), or a dict of such tensors.
    """
    parts = outputs if isinstance(outputs, dict) else {"score": outputs}
    if not all(isinstance(value, Tensor) and value.dim() for value in parts.values()):
        return None
    found: dict[str, list[float]] = {}
    for name, value in parts.items():
        numbers = value.cpu().reshape(len(value), -1).T  # a row for each column
        if len(numbers) > MAX_COLUMNS:
            return None
        found |= {name if len(numbers) == 1 else f"{name}_{k}": column.tolist() for k, column in enumerate(numbers)}
    return found if len({len(column) for column in found.values()}) == 1 else None


def join(folder: Path, plan: Plan) -> None:
    """Put the predictions of the folds so far into one file, sorted by row; each row may come once."""
    fold_of: dict[int, int] = {}
    rows: list[dict[str, Any]] = []
    for number, fold in enumerate(plan.values):
        part = folder / f"version_{number}" / FILE
        if not part.exists() or not (part.parent / TOLD).exists():
            continue
        with part.open(newline="", encoding="utf-8") as file:
            for row in csv.DictReader(file):
                index = int(row.pop("row"))
                if (other := fold_of.setdefault(index, fold)) != fold:
                    refuse(f"row {index} validates in fold {other} and in fold {fold}: does setup heed self.fold?")
                rows.append({"row": index, "fold": fold} | row)
    if rows:
        write(folder / FILE, sorted(rows, key=lambda row: int(row["row"])))


def write(path: Path, rows: list[dict[str, Any]]) -> None:
    """Write a table, whole or not at all."""
    part = path.with_suffix(".part")
    with part.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    part.replace(path)
