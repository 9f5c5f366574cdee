"""Start `python -m src ...` in a process whose parent has already imported it: a start takes 0.1 s of CPU, not 4.

A fork server of each pytest process imports the command line once; each start is a fork of it with arguments, folder,
environment and streams of its own. What is under test in the start itself (imports, signals during them) starts cold.
"""

import atexit
import contextlib
import multiprocessing
import os
import random
import runpy
import signal
import subprocess
import sys
import threading
from collections.abc import Iterable, Mapping
from multiprocessing import forkserver
from multiprocessing.connection import Connection
from pathlib import Path
from typing import IO, Any

PROJECT = Path(__file__).parents[1]


class Popen:
    """The part of `subprocess.Popen` that the tests use, in text mode, for the words after `python -m src`."""

    def __init__(
        self,
        args: list[str],
        cwd: Path,
        env: Mapping[str, str],
        start_new_session: bool = False,
        stdout: int = subprocess.PIPE,
        stderr: int = subprocess.PIPE,
    ) -> None:
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(["src.cli"])
        with contextlib.chdir(PROJECT):  # where the server finds the source to import
            forkserver.ensure_running()
        pipes = [multiprocessing.Pipe(duplex=False) if to == subprocess.PIPE else None for to in (stdout, stderr)]
        ends = [pipe and pipe[1] for pipe in pipes]
        self.args = args
        self._process = context.Process(target=_become, args=(args, str(cwd), dict(env), start_new_session, *ends))
        self._process.start()
        self.pid: int = self._process.pid  # type: ignore[assignment]
        self.stdout, self.stderr = (pipe and _reader(*pipe) for pipe in pipes)

    @property
    def returncode(self) -> int | None:
        """Exit code; minus the signal's number if one ended it; None while it runs."""
        return self._process.exitcode

    poll = property(lambda self: lambda: self._process.exitcode)

    def wait(self, timeout: float | None = None) -> int:
        self._process.join(timeout)
        if self.returncode is None:
            raise subprocess.TimeoutExpired(self.args, timeout or 0.0)
        return self.returncode

    def send_signal(self, number: int) -> None:
        if self.returncode is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def communicate(self, timeout: float | None = None) -> tuple[str, str]:
        texts = ["", ""]

        def read(place: int, stream: IO[str]) -> None:
            texts[place] = stream.read()

        streams = [(place, stream) for place, stream in enumerate((self.stdout, self.stderr)) if stream]
        threads = [threading.Thread(target=read, args=each, daemon=True) for each in streams]
        for thread in threads:
            thread.start()
        self.wait(timeout)
        for thread in threads:
            thread.join(timeout)
        return texts[0], texts[1]


def start(args: Iterable[object], cwd: Path, env: Mapping[str, str], **options: Any) -> Any:
    """Start `python -m src ...`, warm where the system can fork from a server; returns a `Popen` with pipes."""
    words = [str(arg) for arg in args]
    if "forkserver" in multiprocessing.get_all_start_methods():
        return Popen(words, cwd, env, **options)
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True} | options
    return subprocess.Popen([sys.executable, "-m", "src", *words], cwd=cwd, env=dict(env), **pipes)


def _reader(read: Connection, write: Connection) -> IO[str]:
    write.close()
    stream = os.fdopen(os.dup(read.fileno()), "r", encoding="utf-8", errors="replace")
    read.close()
    return stream


def _become(
    args: list[str], cwd: str, env: dict[str, str], new_session: bool, out: Connection | None, err: Connection | None
) -> None:
    """Run the command line in this fork of the server as a fresh Python would, and leave with its code."""
    if new_session:
        os.setsid()
    multiprocessing.set_start_method(multiprocessing.get_all_start_methods()[0], force=True)  # a DataLoader's workers
    for number, end in ((1, out), (2, err)):
        target = end.fileno() if end else os.open(os.devnull, os.O_WRONLY)
        os.dup2(target, number)
        os.close(target)
    sys.stdout = open(1, "w", encoding="utf-8", closefd=False)  # noqa: PTH123, SIM115
    sys.stderr = open(2, "w", encoding="utf-8", buffering=1, closefd=False)  # noqa: PTH123, SIM115
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(env)
    sys.argv = ["src", *args]
    sys.path[:0] = [cwd, *filter(None, env.get("PYTHONPATH", "").split(os.pathsep))]
    import numpy as np
    import torch
    from lightning.pytorch.utilities import rank_zero_only

    rank_zero_only.rank = int(env.get("RANK", env.get("LOCAL_RANK", 0)))  # Lightning read it when it was imported
    torch.set_num_threads(int(env.get("OMP_NUM_THREADS", os.cpu_count() or 1)))
    random.seed()
    np.random.seed()  # noqa: NPY002
    torch.seed()
    try:
        runpy.run_module("src", run_name="__main__", alter_sys=True)
    finally:
        atexit._run_exitfuncs()
