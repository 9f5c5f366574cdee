"""Measure in pairs, each run in a fresh process, and print a table.

    python -m tests.benchmarks                           all rows, about ten minutes on two cores
    python -m tests.benchmarks --only mnist,xor --pairs 3

Each ratio is the median over pairs that ran one after the other. Other work on the machine makes it noise.
"""

import argparse
import importlib.metadata
import os
import platform
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

from tests.benchmarks.child import PROJECT, run

IMAGES = {"kind": "images", "num_workers": 0}
# Title, our function and the other one, options of both.
ROWS: dict[str, tuple[str, str, str, dict[str, Any]]] = {
    "mnist": ("MNIST fit / hand-written loop", "ours.mnist", "handwritten.mnist", {}),
    "xor": ("XOR fit / hand-written loop", "ours.xor", "handwritten.xor", {}),
    "images": ("DataLoader of images: adopted / bare", "loading.adopted", "loading.bare", IMAGES),
    "workers": ("the same with 2 workers", "loading.adopted", "loading.bare", IMAGES | {"num_workers": 2}),
    "tensors": ("DataLoader of tensors: adopted / bare", "loading.adopted", "loading.bare", {"kind": "tensors"}),
}


def measure(name: str, **options: Any) -> dict[str, Any]:
    """Run a function in a temporary folder."""
    sys.stderr.write(f"  {name} {options}\n")
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        return run(name, folder=folder, **options)


def main() -> None:
    """Measure the rows that the command line names."""
    form = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks", description=__doc__, formatter_class=form)
    parser.add_argument("--pairs", type=int, default=5, help="pairs of each row; 5 by default")
    parser.add_argument("--only", default=",".join(ROWS), help="names of rows; all by default")
    parser.add_argument("--root", type=Path, default=PROJECT / "data", help="folder of the data; by default data")
    args = parser.parse_args()
    only = args.only.split(",")
    if not set(only) <= set(ROWS):
        parser.error(f"--only {args.only}: known rows are {','.join(ROWS)}")
    if only != ["xor"] and not (args.root / "MNIST" / "raw").is_dir():
        parser.error(f"no MNIST under {args.root}: run `python -m src fit --config configs/mnist.yaml` once to get it")
    versions = [f"{name} {importlib.metadata.version(name)}" for name in ("torch", "lightning")]
    print(f"{platform.platform()}, {os.cpu_count()} cores, Python {platform.python_version()}, {', '.join(versions)}")
    print(f"{'':40} {'ours':>9} {'other':>9} {'ratio':>7}  {'MiB':>6}")
    for title, ours, other, options in (ROWS[key] for key in only):
        pairs = [
            [measure(name, root=str(args.root.resolve()), seed=seed, **options) for name in (ours, other)]
            for seed in range(args.pairs)
        ]
        seconds = [[each["seconds"] for each in pair] for pair in pairs]
        columns = [statistics.median(column) for column in zip(*seconds, strict=True)]
        ratio = statistics.median(a / b for a, b in seconds)
        print(f"{title:40} {columns[0]:8.2f}s {columns[1]:8.2f}s {ratio:7.2f}  {pairs[0][0]['peak_mib']:6.0f}")


if __name__ == "__main__":
    main()
