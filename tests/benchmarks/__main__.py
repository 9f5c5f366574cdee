"""Measures, in turns and pair by pair, each run in a fresh process; prints a table and writes all figures as JSON.

    python -m tests.benchmarks                      all rows, about 15 minutes on two cores
    python -m tests.benchmarks --only a,c --pairs 3

Times on a machine that does other work are noisy: each ratio is the median over pairs that ran one after the other.
"""

import argparse
import datetime
import importlib.metadata
import json
import os
import platform
import statistics
import sys
from pathlib import Path
from typing import Any

from tests.benchmarks.child import PROJECT
from tests.benchmarks.rows import Row, Suite

KEYS = ("a", "acc", "b", "c", "d", "e", "f", "g", "h", "i", "j", "k")
PACKAGES = ("torch", "torchvision", "lightning", "torchmetrics", "jsonargparse", "numpy")


def machine() -> dict[str, Any]:
    """What the figures depend on, beside the code."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    models = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return {
        "platform": platform.platform(),
        "cpu": models[0] if models else platform.processor(),
        "cores": cores,
        "load": load(),
    }


def load() -> list[float]:
    """How many processes wait for a core, on the mean of 1, 5 and 15 minutes; 0 where the system does not tell."""
    return [round(value, 2) for value in os.getloadavg()] if hasattr(os, "getloadavg") else [0.0] * 3


def versions() -> dict[str, str]:
    """Of Python and the packages, none of them imported: a child's peak memory starts at the size of this process."""
    return {"python": platform.python_version()} | {name: importlib.metadata.version(name) for name in PACKAGES}


def cells(row: Row) -> list[str]:
    """A row of the table."""
    if row.figure is None:
        return [row.key, row.what, "", "", "", f"{row.bar:.2f}" if row.bar else "", row.note]

    def show(values: list[float]) -> str:
        value = statistics.median(values)
        return f"{value:,.0f} {row.unit}" if value >= 100 else f"{value:.2f} {row.unit}"

    bar = f"{'>=' if row.at_least else '<='} {row.bar:g}" if row.bar is not None else ""
    verdict = row.verdict + (f" ({row.note})" if row.note else "")
    if not row.other:
        return [row.key, row.what, f"{row.figure:.4f} {row.unit}".strip(), "", "", bar, verdict]
    return [row.key, row.what, show(row.ours), show(row.other), f"{row.figure:.2f}", bar, verdict]


def print_table(rows: list[Row]) -> None:
    """Columns as wide as they need to be."""
    table = [["", "what", "ours", "other", "ratio", "bar", "verdict"], *(cells(row) for row in rows)]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    for line in table:
        print("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())


def main() -> None:
    """Measure what the command line asks for."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.benchmarks", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--pairs", type=int, help="pairs of each row; by default 5, of (b) 2 and of (f) 3")
    parser.add_argument("--only", default=",".join(KEYS), help="rows, by their letters; all by default")
    parser.add_argument("--json", type=Path, help="where all figures go; by default runs/bench/<date>.json")
    parser.add_argument("--full", action="store_true", help="run all ten epochs of the usual pipeline, not one")
    parser.add_argument("--root", type=Path, default=PROJECT / "data", help="folder of the data; by default data")
    args = parser.parse_args()
    only = set(args.only.split(","))
    if not only <= set(KEYS):
        parser.error(f"--only {args.only}: known rows are {','.join(KEYS)}")
    if args.pairs is not None and args.pairs < 1:
        parser.error(f"--pairs {args.pairs}: must be at least 1")
    if only - {"c", "e", "i", "j", "k"} and not (args.root / "MNIST" / "raw").is_dir():
        parser.error(f"no MNIST under {args.root}: run `python -m src fit --config configs/mnist.yaml` once to get it")
    now = datetime.datetime.now(datetime.UTC)
    report: dict[str, Any] = {"date": now.isoformat(timespec="seconds"), "machine": machine(), "versions": versions()}
    if report["machine"]["load"][0] > report["machine"]["cores"] / 4:
        # Two threads that wait for each other at each operation suffer most: a step can take ten times as long.
        sys.stderr.write("warning: this machine does other work, the figures will not be those of the code\n")
    suite = Suite(args.pairs, args.root, args.full)
    rows = []
    for row in suite.measure(only):
        rows.append(row)
        sys.stderr.write("  ".join(cells(row)) + "\n")
    about = report["machine"]
    print(f"\n{about['cpu']}, {about['cores']} cores, {about['platform']}; load at the start {about['load'][0]}")
    print(", ".join(f"{name} {version}" for name, version in report["versions"].items()))
    print("ours and other are medians; ratio is the median over the pairs\n")
    print_table(rows)
    report |= {"load_at_end": load()}
    report |= {"rows": [row.record() for row in rows], "runs": suite.runs}
    path = args.json or Path("runs/bench", f"{now:%Y-%m-%dT%H-%M-%S}.json")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(report, indent=1))
    print(f"\nwritten to {path}")


if __name__ == "__main__":
    main()
