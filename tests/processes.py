"""Helpers for tests of several processes: real launches, a callback that ends a process, a comparison of runs."""

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from tests import stopping, warm
from tests.conftest import PROJECT, SMALL
from tests.warm import finish

XOR = ("--config", SMALL)
IN_DOUBLE = ("--trainer.precision", "64-true")


class Fail(Callback):
    """Ends a rank before a step, with an exception or `kill -9`; with a file `once`, only the first time."""

    def __init__(self, rank: int, step: int, kill: bool = False, once: Path | None = None) -> None:
        self.rank = rank
        self.step = step
        self.kill = kill
        self.once = once

    def on_train_batch_start(self, trainer: Trainer, module: LightningModule, batch: Any, batch_idx: int) -> None:
        if trainer.global_rank != self.rank or trainer.global_step != self.step:
            return
        if self.once is not None:
            if self.once.exists():
                return
            self.once.touch()
        if self.kill:
            os.kill(os.getpid(), signal.SIGKILL)
        raise RuntimeError(f"rank {self.rank} broke down")


def fail(rank: int, step: int, **more: object) -> list[str]:
    values = {"rank": rank, "step": step} | more
    options = [f"--trainer.callbacks.{name}={value}" for name, value in values.items()]
    return ["--trainer.callbacks=tests.processes.Fail", *options]


def processes(number: int) -> list[str]:
    return ["--trainer.accelerator=cpu", f"--trainer.devices={number}", "--trainer.strategy=ddp"]


def start(*args: object, cwd: Path, torchrun: tuple[str, ...] = (), new_session: bool = False, **env: str) -> Any:
    """Start `python -m src ...`, or the same by torchrun with its options."""
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(PROJECT)} | env
    if not torchrun:
        return warm.start(args, cwd, environment, new_session)
    command = [sys.executable, "-m", "torch.distributed.run", *torchrun, "-m", "src", *map(str, args)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen(command, cwd=cwd, env=environment, text=True, **pipes)


def launch(*args: object, cwd: Path, torchrun: tuple[str, ...] = (), **env: str) -> subprocess.CompletedProcess[str]:
    """Start `python -m src ...`, assert success and return rank 0; starts each rank that `processes` asks for."""
    devices = [str(arg).partition("=")[2] for arg in args if str(arg).startswith("--trainer.devices=")]
    ranks: list[dict[str, str]] = [{}]
    if "--trainer.strategy=ddp" in args and not torchrun and devices:
        address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "NODE_RANK": "0"}
        ranks = [address | {"LOCAL_RANK": str(rank)} for rank in range(int(devices[0]))]
    started = [start(*args, cwd=cwd, torchrun=torchrun, **env, **rank) for rank in ranks]
    done = [finish(process) for process in started]
    for each in done:
        assert each.returncode == 0, each.stderr
    return done[0]


def free_port() -> int:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return int(server.getsockname()[1])


def rows(run: Path) -> list[dict[str, float]]:
    return [{name: float(value) for name, value in row.items() if value} for row in stopping.rows(run)]


def assert_equal_runs(a: Path, b: Path, relative: float) -> None:
    """Compare weights and metrics of two runs within a relative distance; an accuracy is a count over a number."""
    states = [torch.load(run / "checkpoints/last.ckpt", weights_only=True)["state_dict"] for run in (a, b)]
    for name, value in states[0].items():
        distance = (states[1][name] - value).abs().max() / value.abs().max()
        assert distance <= relative, f"{name}: {distance:.1e}"
    for one, other in zip(rows(a), rows(b), strict=True):
        accuracies = {name: pytest.approx(value, abs=1e-6) for name, value in one.items() if name.endswith("/acc")}
        assert other == {name: pytest.approx(value, rel=relative) for name, value in one.items()} | accuracies
