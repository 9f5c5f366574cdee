"""The template, started as its users start it."""

import csv
import functools
import io
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any
from unittest.mock import patch

from lightning.pytorch import Trainer

from src.cli import main
from tests.benchmarks.child import stopwatch


class Terminal(io.StringIO):
    """Takes what is printed and claims to be a terminal, so that the progress bar is drawn."""

    def isatty(self) -> bool:
        return True


def fit(experiment: str, folder: str, *options: str) -> dict[str, Any]:
    """Run `fit --config configs/<experiment>.yaml`.

    Returns:
        `seconds` and `peak_mib` of Trainer.fit, which sets up the data too, `steps`, and `test_acc` of the test after.
    """
    result: dict[str, Any] = {}
    real_fit = Trainer.fit

    @functools.wraps(real_fit)  # Lightning makes options of its signature
    def timed_fit(trainer: Trainer, *args: Any, **kwargs: Any) -> None:
        with stopwatch(result):
            real_fit(trainer, *args, **kwargs)
        result["steps"] = trainer.global_step

    command = ["fit", "--config", f"configs/{experiment}.yaml", "--trainer.default_root_dir", folder, *options]
    with patch.object(Trainer, "fit", timed_fit), redirect_stdout(Terminal()):
        main(command)
    with Path(folder, experiment, "version_0", "metrics.csv").open(newline="") as file:
        test_acc = float(list(csv.DictReader(file))[-1]["test/acc"])
    return result | {"test_acc": test_acc}


def mnist(root: str, seed: int, folder: str) -> dict[str, Any]:
    """Run the MNIST experiment."""
    return fit("mnist", folder, "--data.root", root, "--seed_everything", str(seed))


def xor(root: str, seed: int, folder: str) -> dict[str, Any]:
    """Run the XOR experiment."""
    return fit("xor", folder)
