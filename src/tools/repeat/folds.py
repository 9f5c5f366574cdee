"""Predict the rows of each fold by the net that has not seen them, and put them into one table."""

import csv
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
from lightning.pytorch import Callback, LightningModule, Trainer

from src.tools.common import write_table
from src.tools.common.fits import evaluate
from src.tools.repeat.plan import Plan

FILE = "out_of_fold.csv"
# A tracker has the fit and its validation.
UNTRACKED = "--config={trainer: {logger: false}, track: {tensorboard: false, wandb: null, mlflow: null}}"


class ValidationRows(Callback):
    """Lets `predict` read what the validation reads; `rows` are the row numbers, the data module's `val_rows`."""

    rows: Any = None

    def setup(self, trainer: Trainer, module: LightningModule, stage: str) -> None:
        data: Any = trainer.datamodule  # type: ignore[attr-defined]
        data.setup("validate")  # a data module may set up each stage on its own
        data.predict_dataloader, data.prediction_rows = data.val_dataloader, None
        self.rows = np.asarray(getattr(data, "val_rows", None)).tolist()


def predict(run: Path) -> None:
    """Write the row numbers and the predictions of a fold; print a note if that cannot be done."""
    if (run / FILE).exists():
        return
    unseen, folder = ValidationRows(), run / "predict"
    shutil.rmtree(folder, ignore_errors=True)  # of a kill before the rows were written
    error = evaluate(["predict", UNTRACKED], run, folder, callbacks=[unseen], output=folder / "output.txt")
    predicted, rows = read_table(folder / "predictions.csv"), unseen.rows
    if not error and [type(row) for row in rows or []] != [int] * len(predicted):
        error = f"val_rows of the data module must number the {len(predicted)} rows of val_dataloader, as fold_of does"
    if error:
        print(f"note: no {FILE}: {error}", file=sys.stderr, flush=True)
    else:
        table = [{"row": row} | scores for row, scores in zip(rows, predicted, strict=True)]
        write_table(run / FILE, [{k: v for k, v in row.items() if k != "sample"} for row in table])


def join(plan: Plan) -> str:
    """Put the predictions of the folds into one file, sorted by row.

    Returns:
        Nothing; or why there is no such file, if a row comes twice.
    """
    rows: dict[int, dict[str, Any]] = {}
    for number, fold in enumerate(plan.values):
        for row in read_table(plan.folder / f"version_{number}" / FILE):
            index = int(row["row"])
            if index in rows:
                twice = f"row {index} validates in fold {rows[index]['fold']} and in fold {fold}"
                return f"{twice}: mean and spread are not those of folds. Let setup use self.fold."
            rows[index] = {"row": index, "fold": fold} | row
    if rows:
        write_table(plan.folder / FILE, [rows[index] for index in sorted(rows)])
    return ""


def read_table(path: Path) -> list[dict[str, Any]]:
    """Read a CSV; return no rows where there is none."""
    return list(csv.DictReader(path.read_text(encoding="utf-8").splitlines() if path.exists() else []))
