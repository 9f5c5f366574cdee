"""Measure in pairs, each run in a fresh process, and print a table.

    python -m tests.benchmarks                           all rows, about ten minutes on two cores
    python -m tests.benchmarks --only mnist,xor --pairs 3

Each ratio is the median over pairs that ran one after the other. Other work on the machine makes it noise.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import lightning
import torch

PROJECT = Path(__file__).parents[2]
# Title, our function and the other one.
ROWS = {
    "mnist": ("MNIST fit, hand-written loop", "ours.mnist", "handwritten.mnist"),
    "xor": ("XOR fit, hand-written loop", "ours.xor", "handwritten.xor"),
    "images": ("DataLoader of images, bare", "ours.images", "handwritten.images"),
    "tensors": ("DataLoader of tensors, bare", "ours.tensors", "handwritten.tensors"),
}


def measure(name: str, root: Path, seed: int) -> dict[str, Any]:
    """Run a function of this package in a fresh process and a temporary folder; return its plain values.

    Args:
        name: `module.function`.
        root: Folder of the data.
        seed: Of the run.
    """
    module, function = name.split(".")
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        call = f"json.dumps({module}.{function}({str(root.resolve())!r}, {seed}, {folder!r}))"
        command = [sys.executable, "-c", f"import json; from tests.benchmarks import {module}; print('\\n' + {call})"]
        done = subprocess.run(command, cwd=PROJECT, stdout=subprocess.PIPE, text=True, check=True)
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def main() -> None:
    """Measure the rows that the command line names."""
    form = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks", description=__doc__, formatter_class=form)
    parser.add_argument("--pairs", type=int, default=5, help="pairs of each row; 5 by default")
    parser.add_argument("--only", default=",".join(ROWS), help=f"names of rows, by default all: {', '.join(ROWS)}")
    parser.add_argument("--root", type=Path, default=PROJECT / "data", help="folder of the data; by default data")
    args = parser.parse_args()
    versions = f"Python {platform.python_version()}, torch {torch.__version__}, lightning {lightning.__version__}"
    print(f"{platform.platform()}, {os.cpu_count()} cores, {versions}\n{'':30} {'ours':>9} {'other':>9} {'ratio':>7}")
    for title, *names in (ROWS[key] for key in args.only.split(",")):
        runs = [[measure(name, args.root, seed) for name in names] for seed in range(args.pairs)]
        work = {str([run.get(name) for name in ("steps", "samples")]) for pair in runs for run in pair}
        assert len(work) == 1, f"{title}: they do not do the same work: {work}"
        pairs = [[run["seconds"] for run in pair] for pair in runs]
        ours, other = (statistics.median(column) for column in zip(*pairs, strict=True))
        print(f"{title:30} {ours:8.2f}s {other:8.2f}s {statistics.median(a / b for a, b in pairs):7.2f}", flush=True)


if __name__ == "__main__":
    main()
