"""What came out: a line for each fit, results.csv and summary.yaml, and mean and spread of each metric.

Seeds also get the 95 percent interval of the mean. Folds get none: they share training rows, so their scores are not
independent and Student's interval would be too narrow.
"""

import csv
import math
import os
import re
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from src.tools.repeat.plan import Plan

# A score on the rows that chose the checkpoint is too good; whoever reads the figures has to know it.
CHOSEN = {
    "fold": "each fold's checkpoint was chosen on that fold, by {monitor}, so its score is optimistic",
    "seed": "each checkpoint was chosen on the same validation part, by {monitor}, so its score is optimistic",
}


@dataclass
class Row:
    """What is told of a fit.

    Attributes:
        value: Its seed, or the number of its fold.
        run: Its folder.
        metrics: By name.
        error: Why it failed, in a line, if it did.
    """

    value: int
    run: Path
    metrics: dict[str, float] = field(default_factory=dict)
    error: str = ""


def metrics_of(metrics: dict[str, Any], stage: str) -> dict[str, float]:
    """Those of a stage, `test/acc` or `test_acc`; summary.json has NaN as a text."""
    mine = {name: value for name, value in metrics.items() if re.match(rf"{stage}(id|idation)?[/_]", name)}
    return {name: float(value) for name, value in sorted(mine.items())}


def spread(values: list[float], independent: bool) -> dict[str, float]:
    """Compute mean and standard deviation (of a sample: n - 1), of several values.

    Args:
        values: One for each fit.
        independent: Adds the 95 percent interval of the mean, by Student's t.
    """
    found = {"mean": float(np.mean(values))}
    if len(values) > 1:
        found["std"] = float(np.std(values, ddof=1))
    if len(values) > 1 and independent:
        from scipy.stats import t  # type: ignore[import-untyped]  # half a second

        half = float(t.ppf(0.975, len(values) - 1)) * found["std"] / math.sqrt(len(values))
        found |= {"low": found["mean"] - half, "high": found["mean"] + half}
    return found


def spreads(rows: list[Row], independent: bool) -> dict[str, dict[str, float]]:
    """Those of each metric, over the fits that have it."""
    names = dict.fromkeys(name for row in rows for name in row.metrics)
    values = {name: [row.metrics[name] for row in rows if name in row.metrics] for name in names}
    return {name: {"runs": len(found)} | spread(found, independent) for name, found in values.items()}


def tell_row(folder: Path, plan: Plan, rows: list[Row]) -> None:
    """Print the last row, and write all that there are."""
    row = rows[-1]
    told = "  ".join(f"{name} {value:.4f}" for name, value in row.metrics.items())
    print(f"{plan.kind} {row.value}  {f'failed: {row.error}' if row.error else told}  {os.path.relpath(row.run)}")
    names = list(dict.fromkeys(name for row in rows for name in row.metrics))
    part = folder / "results.csv.part"
    with part.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, [plan.kind, "run", *names, "error"])
        writer.writeheader()
        for row in rows:
            run = os.path.relpath(row.run, folder)
            writer.writerow({plan.kind: row.value, "run": run, "error": row.error} | row.metrics)
    part.replace(folder / "results.csv")


def tell(folder: Path, plan: Plan, rows: list[Row]) -> None:
    """Print the table of all rows, and write summary.yaml."""
    found = spreads(rows, independent=plan.kind == "seed")
    failed = [row.value for row in rows if row.error]
    summary = {f"{plan.kind}s": [row.value for row in rows if not row.error], "failed": failed, "metrics": found}
    chosen = plan.stage == "val" and any((row.run / "checkpoints" / "best.ckpt").exists() for row in rows)
    seen = chosen and not plan.monitor.startswith("train")
    note = CHOSEN[plan.kind].format(monitor=plan.monitor) if found and seen else ""
    summary |= {"note": note} if note else {}
    part = folder / "summary.yaml.part"
    part.write_text(yaml.safe_dump(summary, sort_keys=False), encoding="utf-8")
    part.replace(folder / "summary.yaml")
    if summary[f"{plan.kind}s"] and not found:
        print(f"note: no metric of this stage was logged, whose name begins with {plan.stage}/", file=sys.stderr)
    width = max(map(len, found), default=0)
    for name, of in found.items():
        more = f"  std {of['std']:.4f}" if "std" in of else ""
        more += f"  95% {of['low']:.4f} to {of['high']:.4f}" if "low" in of else ""
        print(f"{name:<{width}}  mean {of['mean']:.4f}{more}  ({of['runs']} {plan.kind}{'s' * (of['runs'] != 1)})")
    print(f"note: {note}\n" if note else "", end="")
    print(f"written to {os.path.relpath(folder / 'results.csv')}, summary.yaml", flush=True)
