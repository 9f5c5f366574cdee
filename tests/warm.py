"""Start `python -m src ...` in a process whose parent has already imported it: a start takes 0.1 s of CPU, not 4.

A fork server of each pytest process imports the command line once; each start is a fork of it with arguments, folder,
environment and streams of its own. What is under test in the start itself (imports, signals during them) starts cold.
"""

import atexit
import contextlib
import multiprocessing
import os
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

    def __init__(self, args: list[str], cwd: Path, env: Mapping[str, str], new_session: bool) -> None:
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(["src.cli"])
        with contextlib.chdir(PROJECT):  # where the server finds the source to import
            forkserver.ensure_running()
        pipes = [multiprocessing.Pipe(duplex=False) for _ in range(2)]
        self.args = args
        given = (args, str(cwd), dict(env), new_session, *(write for _, write in pipes))
        self._process = context.Process(target=_become, args=given)
        self._process.start()
        self.pid: int = self._process.pid  # type: ignore[assignment]
        self.stdout, self.stderr = (_reader(*pipe) for pipe in pipes)

    @property
    def returncode(self) -> int | None:
        """Exit code; minus the signal's number if one ended it; None while it runs."""
        return self._process.exitcode

    def poll(self) -> int | None:
        return self.returncode

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

        pairs = enumerate((self.stdout, self.stderr))
        threads = [threading.Thread(target=read, args=pair, daemon=True) for pair in pairs]
        for thread in threads:
            thread.start()
        self.wait(timeout)
        for thread in threads:
            thread.join(timeout)
        return texts[0], texts[1]


def start(args: Iterable[object], cwd: Path, env: Mapping[str, str], new_session: bool = False) -> Any:
    """Start `python -m src ...`, warm where the system can fork from a server; returns a `Popen` with pipes."""
    words = [str(arg) for arg in args]
    if "forkserver" in multiprocessing.get_all_start_methods():
        return Popen(words, cwd, env, new_session)
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen([sys.executable, "-m", "src", *words], cwd=cwd, env=dict(env), text=True, **pipes)


def finish(process: Any, timeout_s: float = 300) -> subprocess.CompletedProcess[str]:
    try:
        out, err = process.communicate(timeout=timeout_s)
    finally:
        process.kill()
    return subprocess.CompletedProcess(process.args, process.returncode, out, err)


def _reader(read: Connection, write: Connection) -> IO[str]:
    write.close()
    stream = os.fdopen(os.dup(read.fileno()), "r", encoding="utf-8", errors="replace")
    read.close()
    return stream


def _become(
    args: list[str], cwd: str, env: dict[str, str], new_session: bool, out: Connection, err: Connection
) -> None:
    """Run the command line in this fork of the server as a fresh Python would, and leave with its code."""
    if new_session:
        os.setsid()
    multiprocessing.set_start_method(multiprocessing.get_all_start_methods()[0], force=True)  # a DataLoader's workers
    for number, end in ((1, out), (2, err)):
        os.dup2(end.fileno(), number)
        end.close()
    sys.stdout = open(1, "w", encoding="utf-8", closefd=False)  # noqa: PTH123, SIM115
    sys.stderr = open(2, "w", encoding="utf-8", buffering=1, closefd=False)  # noqa: PTH123, SIM115
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(env)
    sys.argv = ["src", *args]
    sys.path[:0] = [cwd, *filter(None, env.get("PYTHONPATH", "").split(os.pathsep))]
    import torch
    from lightning.pytorch.utilities import rank_zero_only

    rank_zero_only.rank = int(env.get("RANK", env.get("LOCAL_RANK", 0)))  # Lightning read it when it was imported
    torch.set_num_threads(int(env.get("OMP_NUM_THREADS", os.cpu_count() or 1)))
    try:
        runpy.run_module("src", run_name="__main__", alter_sys=True)
    finally:
        atexit._run_exitfuncs()
