"""The template, started as its users start it."""

import csv
import functools
import importlib
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
from src.data.mnist import MNISTDataModule
from tests.benchmarks.stopwatch import stopwatch


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


class RepeatedMNIST(MNISTDataModule):
    """MNIST with its training images `times` times over.

    Args:
        times: How often each is there.
        rest: The arguments of `MNISTDataModule`.
    """

    def __init__(self, times: int = 1, **rest: Any) -> None:
        super().__init__(**rest)
        self.times = times

    def setup(self, stage: str) -> None:
        """Repeat what was loaded; validation stays as it is."""
        super().setup(stage)
        if stage == "fit":
            images, digits = self.images
            self.images = (images.repeat(self.times, 1, 1), digits.repeat(self.times))
            self.train_rows = torch.cat([self.train_rows + k * len(images) for k in range(self.times)])


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


def mnist_repeated(root: str, seed: int, folder: str, times: int, epochs: int) -> dict[str, Any]:
    """A few epochs of MNIST with its training images `times` times over."""
    data = f"--data={RepeatedMNIST.__module__}.{RepeatedMNIST.__name__}"
    return fit(
        "mnist", folder, data, "--data.times", str(times), "--data.root", root,
        "--seed_everything", str(seed), "--trainer.max_epochs", str(epochs),
    )  # fmt: skip


def xor(folder: str) -> dict[str, Any]:
    """The default XOR run."""
    return fit("xor", folder)


def sweep(folder: str, trials: int) -> dict[str, Any]:
    """Trials of XOR, one after another in this process, which is warm by a first one.

    Args:
        folder: Where they go.
        trials: How many.

    Returns:
        `seconds_beyond`, what each costs beside Trainer.fit; what a sweep does at its begin and its end does not count.
    """
    search = importlib.import_module("src.tools.sweep").main
    space = Path(folder, "space.yaml")
    space.write_text("space: {model.optimizer.lr: {low: 0.1, high: 1.0, log: true}, model.net.hidden: [4, 8]}\n")
    place = str(Path(folder, "sweep"))
    options = ["--config", "configs/xor.yaml", "--trainer.max_epochs", "1", "--sweep", str(space), "--trials", "1"]
    search([*options, "--resume", place])
    fits: list[dict[str, Any]] = []
    real_fit = Trainer.fit

    @functools.wraps(real_fit)
    def timed_fit(trainer: Trainer, *args: Any, **kwargs: Any) -> None:
        fits.append({})
        with stopwatch(fits[-1]):
            real_fit(trainer, *args, **kwargs)

    def seconds(number: int) -> float:
        start_s = time.perf_counter()
        search(["--resume", place, "--trials", str(number)])
        return time.perf_counter() - start_s

    with patch.object(Trainer, "fit", timed_fit):
        whole, empty = seconds(1 + trials), seconds(1 + trials)
    beyond = whole - empty - sum(fit["seconds"] for fit in fits)
    return {"seconds_beyond": beyond / trials, "seconds": whole, "fits": len(fits)}
