"""The template, started as its users start it."""

import csv
import functools
import io
import time
from collections.abc import Sequence
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from src.cli import main
from tests.benchmarks.child import stopwatch


class Terminal(io.StringIO):
    """Takes what is printed and says that it is a terminal, so that the progress bar is drawn."""

    def isatty(self) -> bool:
        """It is not; the bar believes it."""
        return True


class EpochTimer(Callback):
    """Notes the time of the training part of each epoch: Lightning validates before it calls the epoch ended."""

    def __init__(self) -> None:
        self.seconds: list[float] = []
        self._start_s = 0.0

    @staticmethod
    def _now_s() -> float:
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        return time.perf_counter()

    def on_train_epoch_start(self, trainer: Trainer, module: LightningModule) -> None:
        """Start the clock."""
        self._start_s = self._now_s()

    def on_train_batch_end(
        self, trainer: Trainer, module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Stop it after the last batch."""
        if trainer.is_last_batch:
            self.seconds.append(self._now_s() - self._start_s)


def fit(experiment: str, folder: str, *options: str) -> dict[str, Any]:
    """Run `fit --config configs/<experiment>.yaml`.

    Args:
        experiment: The config's name.
        folder: Where the run goes.
        options: Further ones of the command line.

    Returns:
        `seconds` and `peak_mib` of Trainer.fit, which sets up the data too; `epoch_seconds`, `steps`, and `test_acc`
        of the test that follows.
    """
    result: dict[str, Any] = {}
    timer = EpochTimer()
    real_fit = Trainer.fit

    @functools.wraps(real_fit)  # Lightning makes the command line's options of its signature
    def timed_fit(trainer: Trainer, *args: Any, **kwargs: Any) -> None:
        trainer.callbacks.append(timer)
        with stopwatch(result):
            real_fit(trainer, *args, **kwargs)
        result["steps"] = trainer.global_step

    command = ["fit", "--config", f"configs/{experiment}.yaml", "--trainer.default_root_dir", folder, *options]
    with patch.object(Trainer, "fit", timed_fit), redirect_stdout(Terminal()) as printed:
        main(command)
    print(printed.getvalue())
    with Path(folder, experiment, "version_0", "metrics.csv").open(newline="") as file:
        test_acc = float(list(csv.DictReader(file))[-1]["test/acc"])
    return result | {"epoch_seconds": timer.seconds, "test_acc": test_acc}


def mnist(root: str, seed: int, folder: str, options: Sequence[str] = ()) -> dict[str, Any]:
    """The default MNIST run.

    Args:
        root: Folder of the data.
        seed: Of weights and order.
        folder: Where the run goes.
        options: Further ones of the command line.
    """
    return fit("mnist", folder, "--data.root", root, "--seed_everything", str(seed), *options)


def xor(folder: str) -> dict[str, Any]:
    """The default XOR run."""
    return fit("xor", folder)
