"""Runs a measured function in a process of its own, so that imports, caches and peak memory are its own too."""

import importlib
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

try:
    import resource
except ImportError:  # Windows
    resource = None  # type: ignore[assignment]

PROJECT = Path(__file__).parents[2]


def experiment() -> dict[str, Any]:
    """Return configs/mnist.yaml with its references followed."""
    config: dict[str, Any] = yaml.safe_load((PROJECT / "configs/mnist.yaml").read_text())
    model = config["model"]
    model["scheduler"]["init_args"]["max_lr"] = model["optimizer"]["init_args"]["lr"]
    return config


@contextmanager
def stopwatch(result: dict[str, Any]) -> Iterator[None]:
    """Add `seconds`, the block's wall time, and `peak_mib`, the process's peak memory; NaN on Windows."""
    start_s = time.perf_counter()
    yield
    result["seconds"] = time.perf_counter() - start_s
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss if resource else float("nan")
    result["peak_mib"] = peak / (1024**2 if sys.platform == "darwin" else 1024)  # bytes there, KiB elsewhere


def run(name: str, **options: Any) -> dict[str, Any]:
    """Run `module.function` of this package in a fresh process and return its dict of plain values.

    Raises:
        RuntimeError: If the process failed; with the end of what it printed.
    """
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "result.json")
        command = [sys.executable, "-m", "tests.benchmarks.child", name, json.dumps(options), str(file)]
        done = subprocess.run(command, cwd=PROJECT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        if done.returncode != 0:
            raise RuntimeError(f"{name} failed with {done.returncode}:\n{done.stdout[-3000:]}")
        result: dict[str, Any] = json.loads(file.read_text())
    return result


def main(name: str, options: str, file: str) -> None:
    """Run in the child process what `run` asked for."""
    module, function = name.split(".")
    result = getattr(importlib.import_module(f"tests.benchmarks.{module}"), function)(**json.loads(options))
    Path(file).write_text(json.dumps(result))


if __name__ == "__main__":
    main(*sys.argv[1:])
