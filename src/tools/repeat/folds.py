"""The validation of a run's best checkpoint, and what the net of a fold predicts for the rows that it has not seen."""

import csv
import sys
from pathlib import Path
from typing import Any

import numpy as np
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities.signature_utils import is_param_in_hook_signature
from torch import Tensor
from torch.utils.data import RandomSampler

from src.tools.common import write_table
from src.tools.common.fits import run_verb
from src.tools.repeat.plan import Plan

FILE = "out_of_fold.csv"
MAX_COLUMNS = 64  # per row; `predict` writes as many


class Unseen(Callback):
    """Writes a table of what `predict_step` returns in a validation; a note says why there is none.

    Args:
        path: The file.
    """

    def __init__(self, path: Path) -> None:
        self.path, self.why = path, ""
        self.columns: dict[str, list[float]] = {}

    def on_validation_start(self, trainer: Trainer, module: LightningModule) -> None:
        loader = trainer.val_dataloaders
        sampler = getattr(getattr(loader, "loader", None), "sampler", None)
        if getattr(loader, "shuffle", False) or isinstance(sampler, RandomSampler):
            self.why = "val_dataloader shuffles"

    def on_validation_batch_end(
        self, trainer: Trainer, module: LightningModule, outputs: Any, batch: Any, batch_idx: int, *rest: Any
    ) -> None:
        if self.why:
            return
        try:
            whole = is_param_in_hook_signature(module.predict_step, "batch_idx", min_args=2)  # as Lightning calls it
            found = columns(trainer.strategy.predict_step(*([batch, batch_idx] if whole else [batch])))
        except Exception as error:  # the metrics, for which the validation is made, need no predictions
            kind = type(module).__name__
            self.why = " ".join(f"{kind}.predict_step ended with {type(error).__name__}: {error}".split())[:300]
        else:
            for name, values in found.items():
                self.columns.setdefault(name, []).extend(values)

    def on_validation_end(self, trainer: Trainer, module: LightningModule) -> None:
        data = getattr(trainer, "datamodule", None)
        name = f"{type(data).__name__}.val_rows"
        rows = np.asarray(getattr(data, "val_rows", None)).tolist()
        predicted = len(next(iter(self.columns.values()), []))
        if not isinstance(rows, list) or not all(type(row) is int for row in rows):
            self.why = self.why or f"{name} must be the row numbers of val_dataloader, as fold_of gives them"
        elif len(rows) != predicted:
            self.why = self.why or f"{name} has {len(rows)} rows, val_dataloader gives {predicted}"
        if self.why:
            print(f"note: no {FILE}: {self.why}", file=sys.stderr, flush=True)
            return
        values = zip(rows, *self.columns.values(), strict=True)
        write_table(self.path, [dict(zip(("row", *self.columns), each, strict=True)) for each in values])


def columns(outputs: Any) -> dict[str, list[float]]:
    """Return the numbers of a batch by column.

    Args:
        outputs: (B, ...), or a dict of such tensors.

    Raises:
        ValueError: If a row has too many numbers.
    """
    parts: dict[str, Tensor] = outputs if isinstance(outputs, dict) else {"score": outputs}
    found: dict[str, list[float]] = {}
    for name, value in parts.items():
        numbers = value.reshape(len(value), -1).T.tolist()
        found |= {name if len(numbers) == 1 else f"{name}_{k}": column for k, column in enumerate(numbers)}
    if len(found) > MAX_COLUMNS:
        raise ValueError(f"{len(found)} numbers per row; a table has up to {MAX_COLUMNS}")
    return found


def validate(run: Path, plan: Plan) -> str:
    """Validate the best checkpoint of a run on one device; write the predictions of a fold.

    Returns:
        The reason of a failure in a line, or nothing.
    """
    best = run / "checkpoints" / "best.ckpt"
    best = best if best.exists() else best.with_name("last.ckpt")
    device = ["--trainer.accelerator", plan.base["trainer"]["accelerator"], "--trainer.devices", "1"]
    callbacks = [Unseen(run / FILE)] if plan.kind == "fold" else []
    return run_verb(["validate", "--ckpt_path", best, *device], callbacks, run / "validate")


def join(plan: Plan) -> str:
    """Put the predictions of the folds into one file, sorted by row.

    Returns:
        Nothing; or why there is no such file, if a row comes twice.
    """
    folder, rows = plan.folder, dict[int, dict[str, Any]]()
    for number, fold in enumerate(plan.values):
        path = folder / f"version_{number}" / FILE
        for row in csv.DictReader(path.read_text(encoding="utf-8").splitlines() if path.exists() else []):
            index = int(row["row"])
            if index in rows:
                (folder / FILE).unlink(missing_ok=True)
                return (
                    f"row {index} validates in fold {rows[index]['fold']} and in fold {fold}, so there is no {FILE}. "
                    "Does setup use self.fold? If not, mean and spread are not those of folds."
                )
            rows[index] = {"row": index, "fold": fold} | row
    if rows:
        write_table(folder / FILE, [rows[index] for index in sorted(rows)])
    return ""
