"""Measure in pairs, each run in a fresh process, and print a table.

    python -m tests.benchmarks                           all rows, about ten minutes on two cores
    python -m tests.benchmarks mnist xor --pairs 3

Each ratio is the median over pairs that ran one after the other. Other work on the machine makes it noise.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

import lightning
import torch

# Function of ours.py and of handwritten.py, and its title.
ROWS = {
    "mnist": "MNIST fit, hand-written loop",
    "xor": "XOR fit, hand-written loop",
    "images": "DataLoader of images, bare",
    "tensors": "DataLoader of tensors, bare",
}


def measure(module: str, row: str, seed: int) -> dict[str, Any]:
    """Run a function of this package in a fresh process; return its plain values."""
    code = f"import json; from tests.benchmarks import {module}; print('\\n' + json.dumps({module}.{row}({seed})))"
    command, project = [sys.executable, "-c", code], Path(__file__).parents[2]
    done = subprocess.run(command, cwd=project, stdout=subprocess.PIPE, text=True, check=True)
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def main() -> None:
    """Measure the rows that the command line names."""
    form = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks", description=__doc__, formatter_class=form)
    parser.add_argument("rows", nargs="*", help=f"by default all: {', '.join(ROWS)}")
    parser.add_argument("--pairs", type=int, default=5, help="pairs of each row; 5 by default")
    args = parser.parse_args()
    versions = f"Python {platform.python_version()}, torch {torch.__version__}, lightning {lightning.__version__}"
    print(f"{platform.platform()}, {os.cpu_count()} cores, {versions}\n{'':30} {'ours':>9} {'other':>9} {'ratio':>7}")
    for row in args.rows or ROWS:
        pairs = [[measure(name, row, seed) for name in ("ours", "handwritten")] for seed in range(args.pairs)]
        work = {run["work"] for pair in pairs for run in pair}
        assert len(work) == 1, f"{row}: they do not do the same work: {work}"
        seconds = [[run["seconds"] for run in pair] for pair in pairs]
        ours, other = (statistics.median(column) for column in zip(*seconds, strict=True))
        ratio = statistics.median(a / b for a, b in seconds)
        print(f"{ROWS[row]:30} {ours:8.2f}s {other:8.2f}s {ratio:7.2f}", flush=True)


if __name__ == "__main__":
    main()
