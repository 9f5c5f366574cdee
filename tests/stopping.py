"""Shared by the tests of resuming: a small experiment, a stop at an exact point, a comparison to the bit."""

import csv
import os
import shutil
import signal
import sys
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import torch
import yaml
from lightning.pytorch import Callback, LightningDataModule, Trainer

from src.cli import main
from src.data.loader import TensorLoader


class Stopped(Exception):
    """Raised by `Stop`; to the run it is a crash."""


def crash() -> None:
    raise Stopped


class Stop(Callback):
    """Does something at the n-th call of a hook; part of every run here, so that all have the same config.

    A process takes it from its environment: STOP=SIGKILL:on_train_batch_end:7 sends the process this signal there,
    STOP=SIGKILL:metrics.csv:2 when it is about to rename a file to this name, or to append to it, for the second time.
    """

    at: ClassVar[tuple[str, int] | None] = None
    action: ClassVar[Callable[[], None]] = crash

    def __init__(self) -> None:
        self.calls = 0
        if "STOP" in os.environ:
            name, where, number = os.environ["STOP"].split(":")
            Stop.at, Stop.action = (where, int(number)), lambda: os.kill(os.getpid(), signal.Signals[name])
            sys.addaudithook(self._heard)

    def _heard(self, event: str, args: tuple[Any, ...]) -> None:
        written = {"os.rename": args[1:2], "open": args[:1] if args[1:2] in (("a",), ("a+",)) else ()}.get(event, ())
        if Stop.at and any(str(path).endswith(Stop.at[0]) for path in written):
            self._count()

    def _count(self) -> None:
        self.calls += 1
        if Stop.at and self.calls == Stop.at[1]:
            Stop.action()


def _hook(name: str) -> Callable[..., None]:
    def call(self: Stop, trainer: Trainer, *rest: Any) -> None:
        if Stop.at and Stop.at[0] == name and not trainer.sanity_checking:
            self._count()

    return call


_train = ("batch_start", "batch_end", "epoch_start", "epoch_end", "end")
for _name in (*(f"on_train_{each}" for each in _train), "on_validation_batch_end", "on_validation_end"):
    setattr(Stop, _name, _hook(_name))


class Sums(LightningDataModule):
    """48 shuffled training rows and 16 for validation: learn the sum of four numbers."""

    def __init__(self, batch_size: int = 4) -> None:
        super().__init__()
        self.batch_size = batch_size
        x = torch.randn(64, 4, generator=torch.Generator().manual_seed(0))
        self.data = (x, x.sum(dim=1, keepdim=True))

    def _loader(self, rows: torch.Tensor, shuffle: bool = False) -> TensorLoader:
        trainer = self.trainer
        assert trainer is not None
        data = tuple(value.to(trainer.strategy.root_device) for value in self.data)
        return TensorLoader(data, self.batch_size, rows=rows, shuffle=shuffle)

    def train_dataloader(self) -> TensorLoader:
        return self._loader(torch.arange(48), shuffle=True)

    def val_dataloader(self) -> TensorLoader:
        return self._loader(torch.arange(48, 64))

    test_dataloader = val_dataloader


def config(
    *,
    dropout: float = 0.0,
    scheduler: tuple[str, dict[str, Any]] | None = None,
    interval: str = "epoch",
    callbacks: tuple[Any, ...] = (),
    every_n_steps: int = 5,
    **trainer: Any,
) -> dict[str, Any]:
    """Return an experiment of 3 epochs, 12 steps each."""
    options = {"max_epochs": 3, "accelerator": "cpu", "enable_progress_bar": False} | trainer
    options["callbacks"] = [{"class_path": "tests.stopping.Stop"}, *callbacks]
    return {
        "seed_everything": 0,
        "experiment": "sums",
        "model": {
            "net": {"class_path": "tests.stopping.Net", "init_args": {"dropout": dropout}},
            "loss": {"class_path": "torch.nn.MSELoss"},
            "metrics": {"mae": {"class_path": "torchmetrics.MeanAbsoluteError"}},
            "optimizer": {"class_path": "torch.optim.Adam", "init_args": {"lr": 0.01}},
            "scheduler": {"class_path": scheduler[0], "init_args": scheduler[1]} if scheduler else None,
            "scheduler_interval": interval,
        },
        "data": {"class_path": "tests.stopping.Sums"},
        "trainer": options,
        "checkpoint": {"every_n_steps": every_n_steps},
    }


def early_stopping(**options: Any) -> dict[str, Any]:
    """Return the entry of a YAML for early stopping by the loss."""
    watched = {"monitor": "val/loss"} | options
    return {"class_path": "lightning.pytorch.callbacks.EarlyStopping", "init_args": watched}


class Net(torch.nn.Sequential):
    def __init__(self, dropout: float = 0.0) -> None:
        drop = [torch.nn.Dropout(dropout)] if dropout else []
        super().__init__(torch.nn.Linear(4, 8), torch.nn.ReLU(), *drop, torch.nn.Linear(8, 1))


def write(folder: Path, experiment: dict[str, Any]) -> Path:
    """Write an experiment to a YAML file in a folder; return the file."""
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "sums.yaml"
    file.write_text(yaml.safe_dump(experiment))
    return file


def fit(
    folder: Path, experiment: dict[str, Any], stop_at: tuple[str, int] | None = None, action: Callable[[], None] = crash
) -> Path:
    """Start a run under `folder`, which a stop may end early; return the run's folder."""
    file = write(folder, experiment)
    run_main(["fit", "--config", str(file), "--trainer.default_root_dir", str(folder / "runs")], stop_at, action)
    return folder / "runs" / "sums" / "version_0"


def killed_at(stop_at: tuple[str, int], folder: Path, experiment: dict[str, Any]) -> tuple[Path, Path]:
    """Run an experiment to its end; return its folder, and a copy of it as `kill -9` would have left it at a point."""
    run, copy = folder / "runs/sums/version_0", folder / "killed/sums/version_0"
    fit(folder, experiment, stop_at, lambda: shutil.copytree(run, copy))
    return run, copy


def resume(path: Path, *options: str, stop_at: tuple[str, int] | None = None) -> int:
    return run_main(["fit", "--ckpt_path", str(path), *options], stop_at)


def run_main(args: list[str], stop_at: tuple[str, int] | None = None, action: Callable[[], None] = crash) -> int:
    """Run the command line in this process; a crash is -1."""
    Stop.at, Stop.action = stop_at, action
    try:
        return call(args)[0]
    except Stopped:
        return -1
    finally:
        Stop.at = None


def call(args: list[str]) -> tuple[int, Any]:
    """Run the command line in this process; return the exit code, and what it returns."""
    try:
        return 0, main(args)
    except SystemExit as stop:
        if isinstance(stop.code, str):
            print(stop.code, file=sys.stderr)
            return 1, None
        return int(stop.code or 0), None


def differences(a: Any, b: Any, where: str = "") -> list[str]:
    """List where two checkpoints (or any plain values) are not equal to the bit."""
    if type(a) is not type(b):
        return [f"{where}: {type(a).__name__} and {type(b).__name__}"]
    if isinstance(a, dict):
        found = [f"{where}.{key}: on one side only" for key in a.keys() ^ b.keys()]
        return found + [d for key in a if key in b for d in differences(a[key], b[key], f"{where}.{key}")]
    if isinstance(a, list | tuple):
        if len(a) != len(b):
            return [f"{where}: {len(a)} and {len(b)} values"]
        return [d for k, (x, y) in enumerate(zip(a, b, strict=True)) for d in differences(x, y, f"{where}[{k}]")]
    if isinstance(a, torch.Tensor):
        a, b = a.to_dense(), b.to_dense()
        same = a.dtype == b.dtype and a.shape == b.shape and a.numpy().tobytes() == b.numpy().tobytes()
        return [] if same else [f"{where}: {a} and {b}"]
    return [] if a == b or (a != a and b != b) else [f"{where}: {a!r} and {b!r}"]


def run_differences(a: Path, b: Path) -> list[str]:
    """List where two runs are not equal: in the last or best checkpoint, or in metrics.csv."""
    found = differences(rows(a), rows(b), "metrics.csv")
    for name in ("last", "best"):
        files = [run / "checkpoints" / f"{name}.ckpt" for run in (a, b)]
        if any(file.exists() for file in files):
            left, right = (torch.load(file, weights_only=True) for file in files)
            for checkpoint in (left, right):
                del checkpoint["config"]["trainer"]["default_root_dir"]
            found += differences(left, right, name)
    return found


def resume_diff(whole: Path, run: Path, *options: str, stops: Iterable[tuple[str, int]] = ()) -> list[str]:
    """Resume a run, again after each stop, to its end; list where it is not equal to one that was never stopped."""
    codes = [resume(run, *options, stop_at=stop) for stop in (*stops, None)]
    return run_differences(whole, run) if codes == [-1] * len(codes[1:]) + [0] else [f"exit codes {codes}"]


def rows(run: Path) -> list[dict[str, str]]:
    path = run / "metrics.csv"
    return list(csv.DictReader(path.read_text().splitlines())) if path.exists() else []


def behind(loader: Any, batches: int, seed: int = 0, cycles: bool = True) -> Any:
    """Let a loader be one of a fit with this seed that has so many batches of its epoch behind it."""
    counts = dict.fromkeys(("fetched", "trained"), lambda: batches)
    progress: Any = SimpleNamespace(**counts, first_epoch=lambda: 0, cycles=cycles, note_exhausted=lambda loader: None)
    loader.follow(replace(loader.role, seed=seed, stage="train", progress=progress))
    return loader
