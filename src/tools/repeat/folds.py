"""The validation of a run's best checkpoint, and what the net of a fold says of the samples that it has not seen."""

import csv
import json
import sys
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities.signature_utils import is_param_in_hook_signature
from torch import Tensor
from torch.utils.data import RandomSampler

from src import cli
from src.tools.repeat.plan import Plan

TOLD = "validation.json"  # of a run: its metrics
FILE = "out_of_fold.csv"
MAX_COLUMNS = 64  # of a sample; `predict` writes as many


class Unseen(Callback):
    """Keeps what `predict_step` makes of each batch of a validation: a column for each number of a sample.

    Attributes:
        columns: By name.
        why: Why there are none, in words; nothing as long as there can be.
    """

    def __init__(self) -> None:
        self.columns: dict[str, list[float]] = {}
        self.why = ""

    def on_validation_batch_end(
        self, trainer: Trainer, module: LightningModule, outputs: Any, batch: Any, batch_idx: int, *rest: Any
    ) -> None:
        self.why = self.why or why_not(trainer, module)
        if self.why:
            return
        # As Lightning calls it.
        whole = is_param_in_hook_signature(module.predict_step, "batch_idx", min_args=2)
        try:
            new = columns(trainer.strategy.predict_step(*([batch, batch_idx] if whole else [batch])))
        except Exception as error:  # the metrics, for which this is done, need no predictions
            kind = type(module).__name__
            self.why = " ".join(f"{kind}.predict_step ended with {type(error).__name__}: {error}".split())[:300]
            return
        if new is None or (self.columns and new.keys() != self.columns.keys()):
            self.why = f"predict_step gives no tensors with up to {MAX_COLUMNS} numbers a sample"
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

    What it finds lies in the run's folder, the metrics last. For want of predictions nothing fails: a note says why.
    """
    best = run / "checkpoints" / "best.ckpt"
    best = best if best.exists() else best.with_name("last.ckpt")
    device = ["--trainer.accelerator", plan.accelerator, "--trainer.devices", "1"]
    unseen = Unseen()
    callbacks = [unseen] if plan.kind == "fold" else []
    done = cli.main(["validate", "--ckpt_path", best, *device], callbacks, run / "validate")
    metrics = {name: float(value) for name, value in done.trainer.callback_metrics.items()}
    if plan.kind == "fold":
        rows, why = table(done, unseen)
        if why:
            print(f"note: no {FILE}: {why}", file=sys.stderr, flush=True)
        else:
            write(run / FILE, rows)
    (run / TOLD).with_suffix(".part").write_text(json.dumps(metrics), encoding="utf-8")
    (run / TOLD).with_suffix(".part").replace(run / TOLD)


def table(done: cli.CLI, unseen: Unseen) -> tuple[list[dict[str, Any]], str]:
    """A row for each sample of the validation part; or none, and why that cannot be."""
    told, name = unseen.columns, f"{type(done.datamodule).__name__}.val_rows"
    if unseen.why or not told:
        return [], unseen.why or "there was no batch to validate"
    rows, values = row_numbers(done.datamodule.val_rows), list(zip(*told.values(), strict=True))
    if rows is None:
        return [], f"{name} are no row numbers, as fold_of of src/engine/data/splits.py gives them"
    if len(values) != len(rows):
        return [], f"{name} are {len(rows)}, val_dataloader gives {len(values)}: they must be the same"
    return [{"row": row} | dict(zip(told, of, strict=True)) for row, of in zip(rows, values, strict=True)], ""


def row_numbers(rows: Any) -> list[int] | None:
    """The numbers of the rows, of a mask those of its True; None of anything else."""
    try:
        found = torch.as_tensor(rows)
    except (TypeError, ValueError, RuntimeError):  # texts
        return None
    if found.dim() != 1 or found.is_floating_point() or found.is_complex():
        return None
    numbers: list[int] = (found.nonzero().flatten() if found.dtype == torch.bool else found).tolist()
    return numbers


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


def join(folder: Path, plan: Plan) -> str:
    """Put the predictions of the folds so far into one file, sorted by row.

    Returns:
        Nothing; or, where a row comes twice, why there is no such file.
    """
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
                    (folder / FILE).unlink(missing_ok=True)
                    return (
                        f"row {index} validates in fold {other} and in fold {fold}, so there is no {FILE}. "
                        "Does setup heed self.fold? If it does not, mean and spread are not those of folds."
                    )
                rows.append({"row": index, "fold": fold} | row)
    if rows:
        write(folder / FILE, sorted(rows, key=lambda row: int(row["row"])))
    return ""


def write(path: Path, rows: list[dict[str, Any]]) -> None:
    """Write a table, whole or not at all."""
    part = path.with_suffix(".part")
    with part.open("w", newline="", encoding="utf-8") as file:
        # The nets of two folds may have different outputs.
        writer = csv.DictWriter(file, list(dict.fromkeys(name for row in rows for name in row)))
        writer.writeheader()
        writer.writerows(rows)
    part.replace(path)
