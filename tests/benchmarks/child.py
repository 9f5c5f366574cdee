"""One measured run in a process of its own, so that imports, caches and peak memory are its own too."""

import importlib
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import yaml

PROJECT = Path(__file__).parents[2]


def experiment() -> dict[str, Any]:
    """What configs/mnist.yaml says, with its references followed."""
    config: dict[str, Any] = yaml.safe_load((PROJECT / "configs/mnist.yaml").read_text())
    model = config["model"]
    model["scheduler"]["init_args"]["max_lr"] = model["optimizer"]["init_args"]["lr"]
    return config


def run(name: str, **options: Any) -> dict[str, Any]:
    """Run a function of this package in a fresh process.

    Args:
        name: `module.function`, such as `handwritten.mnist`. It returns a dict of plain values.
        options: Its arguments, plain values.

    Returns:
        What it returned.

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
    """The other side of `run`."""
    module, function = name.split(".")
    result = getattr(importlib.import_module(f"tests.benchmarks.{module}"), function)(**json.loads(options))
    Path(file).write_text(json.dumps(result))


if __name__ == "__main__":
    main(*sys.argv[1:])
