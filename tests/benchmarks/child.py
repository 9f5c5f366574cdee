"""Run a measured function in a process of its own, so that imports, caches and peak memory are its own too."""

import json
import subprocess
import sys
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
    """Return configs/mnist.yaml with its reference resolved."""
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
        RuntimeError: If the process failed; with the end of its output.
    """
    module, function = name.split(".")
    call = f"print('\\n' + json.dumps({module}.{function}(**{options!r})))"
    command = [sys.executable, "-c", f"import json; from tests.benchmarks import {module}; {call}"]
    done = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"{name} failed with {done.returncode}:\n{done.stderr[-3000:]}")
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result
