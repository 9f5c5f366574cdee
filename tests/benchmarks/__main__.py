"""Measures in pairs, each run in a fresh process; prints a table and writes all figures as JSON.

    python -m tests.benchmarks                      all rows, about 15 minutes on two cores
    python -m tests.benchmarks --only a,c --pairs 3

Each ratio is the median over pairs that ran one after the other. On a machine that does other work it is noise.
"""

import argparse
import datetime
import functools
import importlib.metadata
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from tests.benchmarks.child import PROJECT, run

PACKAGES = ("torch", "torchvision", "lightning", "torchmetrics", "jsonargparse", "numpy")
GPU = ["--trainer.accelerator", "gpu", "--trainer.devices", "1"]
ROWS = {
    "a": "MNIST fit / hand-written loop",
    "b": "MNIST fit / usual pipeline, images one by one",
    "c": "XOR fit / hand-written loop",
    "d": "peak memory of (a), MiB",
    "e": "fit --help / import of Lightning's command line",
    "g": "GPU: MNIST fit / hand-written loop",
    "h0": "DataLoader of images, 0 workers: adopted / bare",
    "h2": "DataLoader of images, 2 workers: adopted / bare",
    "ht": "DataLoader of tensors, own collate, 0 workers: adopted / bare",
    "acc": "MNIST test accuracy, the worst of five seeds",
}
Measured = dict[str, list[tuple[float, float]]]  # of each row its pairs: ours, other


def in_folder(name: str, **options: Any) -> dict[str, Any]:
    """Run in a fresh process with a folder that is deleted afterwards."""
    sys.stderr.write(f"  {name} {options}\n")
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        return run(name, **options, **({"folder": folder} if name.startswith(("ours", "usual")) else {}))


def mnist(root: str, pairs: int) -> Iterator[tuple[str, float, float]]:
    """Compare the MNIST fit with the hand-written loop: time, memory, accuracy."""
    for seed in range(pairs):
        ours, other = (in_folder(name, root=root, seed=seed) for name in ("ours.mnist", "handwritten.mnist"))
        if ours["steps"] != other["steps"]:
            raise RuntimeError("The loops took different numbers of steps: make handwritten.mnist follow the config.")
        yield "a", ours["seconds"], other["seconds"]
        yield "d", ours["peak_mib"], other["peak_mib"]
        yield "acc", ours["test_acc"], other["test_acc"]


def usual(root: str, pairs: int) -> Iterator[tuple[str, float, float]]:
    """Compare the MNIST fit with a DataLoader and per-sample transforms; one epoch of that is scaled to ten."""
    for seed in range(pairs):
        ours, other = in_folder("ours.mnist", root=root, seed=seed), in_folder("usual.mnist", root=root, seed=seed)
        yield "b", ours["seconds"], other["seconds"]


def xor(root: str, pairs: int) -> Iterator[tuple[str, float, float]]:
    """Compare the XOR fit with the hand-written loop."""
    for _ in range(pairs):
        yield "c", in_folder("ours.xor")["seconds"], in_folder("handwritten.xor")["seconds"]


def start_up(root: str, pairs: int) -> Iterator[tuple[str, float, float]]:
    """Compare the help with the import of Lightning's command line."""
    commands = (["-m", "src", "fit", "--help"], ["-c", "import lightning.pytorch.cli"])
    for number in range(pairs + 1):
        times = []
        for command in commands:
            start_s = time.perf_counter()
            subprocess.run([sys.executable, *command], cwd=PROJECT, check=True, stdout=subprocess.DEVNULL)
            times.append(time.perf_counter() - start_s)
        if number:  # the first fills the disk's cache
            yield "e", times[0], times[1]


def loading(key: str, kind: str, workers: int, root: str, pairs: int) -> Iterator[tuple[str, float, float]]:
    """Compare an ordinary loader through the engine with the same loader bare."""
    for seed in range(pairs):
        both = {"kind": kind, "root": root, "seed": seed, "num_workers": workers}
        ours, other = (in_folder("loading.drive", adopted=adopted, **both) for adopted in (True, False))
        yield key, ours["seconds"], other["seconds"]


def gpu(root: str, pairs: int) -> Iterator[tuple[str, float, float]]:
    """Compare epochs on a GPU; the first two warm up."""
    import torch

    for seed in range(pairs if torch.cuda.is_available() else 0):
        ours = in_folder("ours.mnist", root=root, seed=seed, options=GPU)
        other = in_folder("handwritten.mnist", root=root, seed=seed, device="cuda")
        yield "g", *(statistics.median(result["epoch_seconds"][2:]) for result in (ours, other))


PARTS: list[tuple[set[str], Callable[[str, int], Iterator[tuple[str, float, float]]]]] = [
    ({"a", "d", "acc"}, mnist),
    ({"b"}, usual),
    ({"c"}, xor),
    ({"e"}, start_up),
    ({"h0"}, functools.partial(loading, "h0", "images", 0)),
    ({"h2"}, functools.partial(loading, "h2", "images", 2)),
    ({"ht"}, functools.partial(loading, "ht", "tensors", 0)),
    ({"g"}, gpu),
]


def machine() -> dict[str, Any]:
    """Return what the figures depend on beside the code."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    models = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return {
        "platform": platform.platform(),
        "cpu": models[0] if models else platform.processor(),
        "cores": os.cpu_count(),
        "load": list(os.getloadavg()) if hasattr(os, "getloadavg") else [0.0],
        "versions": {"python": platform.python_version()}
        | {name: importlib.metadata.version(name) for name in PACKAGES},
    }


def line(key: str, pairs: list[tuple[float, float]]) -> str:
    """Return a row of the table."""
    if key == "acc":
        ours, other = (min(column) for column in zip(*pairs, strict=True))
        return f"{key:4} {ROWS[key]:64} {ours:10.4f} {other:10.4f}"
    ours, other = (statistics.median(column) for column in zip(*pairs, strict=True))
    return f"{key:4} {ROWS[key]:64} {ours:10.2f} {other:10.2f} {statistics.median(a / b for a, b in pairs):8.2f}"


def main() -> None:
    """Measure what the command line asks for."""
    form = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks", description=__doc__, formatter_class=form)
    parser.add_argument("--pairs", type=int, default=5, help="of each row; 5 by default")
    parser.add_argument("--only", default=",".join(ROWS), help="rows, by their names; all by default")
    parser.add_argument("--json", type=Path, help="file of all figures; by default runs/bench/<date>.json")
    parser.add_argument("--root", type=Path, default=PROJECT / "data", help="folder of the data; by default data")
    args = parser.parse_args()
    only = set(args.only.split(","))
    if not only <= set(ROWS):
        parser.error(f"--only {args.only}: known rows are {','.join(ROWS)}")
    if only - {"c", "e"} and not (args.root / "MNIST" / "raw").is_dir():
        parser.error(f"no MNIST under {args.root}: run `python -m src fit --config configs/mnist.yaml` once to get it")
    about, now = machine(), datetime.datetime.now(datetime.UTC)
    if about["load"][0] > about["cores"] / 4:
        sys.stderr.write("warning: this machine does other work, the figures will not be those of the code\n")
    rows: Measured = {}
    for keys, part in PARTS:
        if keys & only:
            for key, ours, other in part(str(args.root.resolve()), args.pairs):
                if key in only:
                    rows.setdefault(key, []).append((ours, other))
    print(f"\n{about['cpu']}, {about['cores']} cores; load at the start {about['load'][0]:.1f}")
    print(", ".join(f"{name} {version}" for name, version in about["versions"].items()))
    print(f"\n{'':4} {'medians':64} {'ours':>10} {'other':>10} {'ratio':>8}")
    print("\n".join(line(key, pairs) for key, pairs in rows.items()))
    path = args.json or Path("runs/bench", f"{now:%Y-%m-%dT%H-%M-%S}.json")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"date": now.isoformat(timespec="seconds"), "machine": about, "rows": rows}, indent=1))
    print(f"\nwritten to {path}")


if __name__ == "__main__":
    main()
