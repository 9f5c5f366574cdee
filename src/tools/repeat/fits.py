"""Run the fits one after the other: start each, resume it, or skip it if it has finished."""

import shutil
import sys
from pathlib import Path

from src.tools.common import fits, refuse
from src.tools.common.fits import evaluate, summary_of, working_on
from src.tools.repeat.folds import join, predict
from src.tools.repeat.plan import Plan
from src.tools.repeat.report import Row, metrics_of, report, report_row

MAX_FAILURES = 3  # in a row


def run_all(plan: Plan) -> None:
    """Run what is not finished, and report each fit, and at the end all of them.

    A signal ends it when the current fit has saved. A fit that fails is noted, and the next one begins.
    """
    rows: list[Row] = []
    with working_on(plan.folder, "repeat") as again:
        for number, value in enumerate(plan.values):
            print(f"{plan.kind} {value}, {number + 1} of {len(plan.values)}", flush=True)
            rows.append(fit(plan, value, plan.folder / f"version_{number}"))
            if rows[-1].error and not any(plan.folder.glob("version_*/record.yaml")):
                shutil.rmtree(plan.folder, ignore_errors=True)  # nothing has begun; the error was printed
                sys.exit(1)
            report_row(plan, rows)
            if len(rows) >= MAX_FAILURES and all(row.error for row in rows[-MAX_FAILURES:]):
                break
        overlap = join(plan)
    report(plan, rows)
    if failed := [row for row in rows if row.error]:
        rest = f", {MAX_FAILURES} in a row: the others were not begun" if len(rows) < len(plan.values) else ""
        reason = failed[-1].error.rstrip(".")
        refuse(f"{len(failed)} of {len(rows)} failed{rest}. The last one: {reason}. After fixing it: {again}")
    if overlap:
        refuse(overlap)


def fit(plan: Plan, value: int, run: Path) -> Row:
    """Run the fit of a seed or a fold to its end; validate its best checkpoint if that is compared."""
    result = run if plan.stage == "test" else run / "validate"
    error = fits.fit(run, plan.options(value))
    if not error and not summary_of(run).get("steps"):
        error = "there was no training batch: the part is empty, or --trainer.limit_train_batches is 0."
    if not error and result != run:
        error = evaluate(["validate"], run, result)
    metrics = {} if error else metrics_of(summary_of(result)["metrics"], plan.stage)
    if plan.kind == "fold" and not error:
        if not metrics:
            error = "no metric was logged in the validation: the part is empty, or --trainer.limit_val_batches is 0."
        predict(run)
    return Row(value, run, metrics, error)
