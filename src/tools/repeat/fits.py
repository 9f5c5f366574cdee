"""Run the fits one after the other, and report their results: results.csv and summary.yaml.

Seeds also get the 95 percent interval of the mean. Folds get none: they share training rows, so their scores are not
independent and Student's interval would be too narrow.
"""

import re
import shlex
import shutil
import sys
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import yaml

from src.tools.common import fits, refuse, write, write_table
from src.tools.common.fits import MAX_FAILURES, evaluate, summary_of, working_on
from src.tools.repeat.folds import join, predict
from src.tools.repeat.plan import Plan


class Row(NamedTuple):
    """The result of a fit; one that failed has no metrics, and the reason in a line."""

    value: int
    run: Path
    metrics: dict[str, float]
    error: str


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
        last = f"The last one: {failed[-1].error.rstrip('.')}. After fixing it: {again}"
        refuse(f"{len(failed)} of {len(rows)} failed, {len(plan.values) - len(rows)} were not begun. {last}")
    if overlap:
        refuse(overlap)


def fit(plan: Plan, value: int, run: Path) -> Row:
    """Run the fit of a seed or a fold to its end; validate its best checkpoint if that is compared."""
    result = run if plan.stage == "test" else run / "validate"
    error = fits.fit(run, plan.options(value))
    if not error and result != run:
        error = evaluate(["validate"], run, result)
    if not error and plan.kind == "fold":
        predict(run)
    return Row(value, run, {} if error else metrics_of(summary_of(result)["metrics"], plan.stage), error)


def metrics_of(metrics: dict[str, Any], stage: str) -> dict[str, float]:
    """Return those of a stage, `test/acc` or `test_acc`; summary.json has NaN as a text."""
    mine = {name: value for name, value in metrics.items() if re.match(rf"{stage}(id|idation)?[/_]", name)}
    return {name: float(value) for name, value in sorted(mine.items())}


def spread(values: list[float], independent: bool) -> dict[str, float]:
    """Compute mean and standard deviation (of a sample: n - 1) of several values.

    Args:
        values: One for each fit.
        independent: Adds the 95 percent interval of the mean, by Student's t.
    """
    found = {"runs": len(values), "mean": float(np.mean(values))}
    if len(values) > 1:
        found["std"] = float(np.std(values, ddof=1))
    if len(values) > 1 and independent:
        from scipy.special import stdtrit  # type: ignore[import-untyped]  # takes a while

        half = float(stdtrit(len(values) - 1, 0.975)) * found["std"] / len(values) ** 0.5
        found |= {"low": found["mean"] - half, "high": found["mean"] + half}
    return found


def report_row(plan: Plan, rows: list[Row]) -> None:
    """Print the last row, and write all of them."""
    row = rows[-1]
    result = "  ".join(f"{name} {value:.4f}" for name, value in row.metrics.items())
    print(f"{plan.kind} {row.value}  {f'failed: {row.error}' if row.error else result}  {row.run}")
    table = [{plan.kind: row.value, "run": row.run.name, "error": row.error} | row.metrics for row in rows]
    write_table(plan.folder / "results.csv", table)


def report(plan: Plan, rows: list[Row]) -> None:
    """Print the table of all rows, and write summary.yaml."""
    done, failed = [row for row in rows if not row.error], [row.value for row in rows if row.error]
    names = dict.fromkeys(name for row in done for name in row.metrics)
    columns = {name: [row.metrics[name] for row in done if name in row.metrics] for name in names}
    found = {name: spread(column, independent=plan.kind == "seed") for name, column in columns.items()}
    summary = {f"{plan.kind}s": [row.value for row in done], "failed": failed, "metrics": found}
    monitor = plan.base["checkpoint"]["monitor"]
    if found and plan.stage == "val" and monitor and not monitor.startswith("train"):
        summary["note"] = f"the scores are optimistic: the same rows have also chosen the checkpoint, by {monitor}"
    write(plan.folder / "summary.yaml", yaml.safe_dump(summary, sort_keys=False))
    if done and not found:
        print(f"note: no metric was logged whose name begins with {plan.stage}/", file=sys.stderr)
    width = max(map(len, found), default=0)
    for name, of in found.items():
        more = f"  std {of['std']:.4f}" if "std" in of else ""
        more += f"  95% {of['low']:.4f} to {of['high']:.4f}" if "low" in of else ""
        print(f"{name:<{width}}  mean {of['mean']:.4f}{more}  ({of['runs']} {plan.kind}{'s' * (of['runs'] != 1)})")
    print(f"note: {summary['note']}\n" if "note" in summary else "", end="")
    print(f"written to {plan.folder / 'results.csv'}, summary.yaml")
    print(f"next  python -m src runs --root {shlex.quote(str(plan.folder))}", flush=True)
