"""The processes that work on a sweep: in this one, or several of which a dead one is replaced; and what they leave."""

import os
import shlex
import signal
import subprocess
import sys
import threading
import time
import uuid
from pathlib import Path

import torch

from src.tools.sweep.close import close
from src.tools.sweep.folder import Sweep, load
from src.tools.sweep.stop import leaving_in_order
from src.tools.sweep.worker import work

LOOK_S = 0.2


def run(sweep: Sweep, workers: int, max_failures: int) -> int:
    """Work on a sweep until it is done or stopped.

    Returns:
        The exit code.
    """
    crew = uuid.uuid4().hex
    again = f"python -m src sweep --resume {shlex.quote(str(sweep.folder))}"
    print(f"sweep {sweep.folder}: {sweep.trials} trials; should it be stopped: {again}", flush=True)
    try:
        with leaving_in_order() as leave_late:
            if workers == 1:
                work(sweep, crew, max_failures, leave_late)
            else:
                _watch(sweep, workers, crew, max_failures)
            return close(sweep, crew, max_failures, again)
    except SystemExit as stop:
        if not isinstance(stop.code, int) or stop.code < 128:
            raise
        print(f"{signal.Signals(stop.code - 128).name}; go on with: {again}", file=sys.stderr, flush=True)
        return stop.code


def _watch(sweep: Sweep, number: int, name: str, max_failures: int) -> None:
    """Keep so many workers running; end them in good order when this process has to end."""
    command = [sys.executable, "-m", "src", "sweep", "--resume", str(sweep.folder)]
    command += ["--worker", name, "--max_failures", str(max_failures)]
    places = [os.environ | place for place in _places(number)]

    def start(place: int) -> subprocess.Popen[bytes]:
        # A session of its own: a Ctrl-C in the terminal reaches this process, which tells each of them once.
        return subprocess.Popen(command, env=places[place], stdin=subprocess.PIPE, start_new_session=True)

    crew, deaths = {place: start(place) for place in range(number)}, 0
    try:
        while crew:
            time.sleep(LOOK_S)
            for place, process in [*crew.items()]:
                code = process.poll()
                if code is None:
                    continue
                del crew[place]
                # A trial takes along so many processes at most.
                if code < 0 and deaths < max_failures * (sweep.trials + 1):
                    print(f"worker {place} died (signal {-code}); its trial is taken over", flush=True)
                    deaths += 1
                    crew[place] = start(place)
                elif code != 0:
                    sys.stderr.write(f"worker {place} ended with exit code {code}; it is not replaced\n")
    finally:
        _end(list(crew.values()))


def _end(crew: list[subprocess.Popen[bytes]]) -> None:
    """Let each save its trial; a second signal stops them at once."""
    for process in crew:
        process.terminate()
    while any(process.poll() is None for process in crew):
        try:
            time.sleep(LOOK_S)
        except SystemExit:
            for process in crew:
                process.terminate()


def _places(number: int) -> list[dict[str, str]]:
    """The environment of each worker: a GPU of its own, its share of the cores."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    threads = os.environ.get("OMP_NUM_THREADS", str(max(1, cores // number)))
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "")
    gpus = visible.split(",") if visible else [str(gpu) for gpu in range(torch.cuda.device_count())]
    own = [{"CUDA_VISIBLE_DEVICES": gpus[place % len(gpus)]} if gpus else {} for place in range(number)]
    return [place | {"OMP_NUM_THREADS": threads} for place in own]


def be_a_worker(folder: Path, crew: str, max_failures: int) -> None:
    """Work beside others, as long as the process that started this one lives."""
    threading.Thread(target=_follow, daemon=True).start()
    try:
        work(load(folder), crew, max_failures)
    except KeyboardInterrupt:
        sys.exit(128 + signal.SIGINT)


def _follow() -> None:
    os.read(0, 1)  # nobody writes: it returns when the other end is closed
    os.kill(os.getpid(), signal.SIGTERM)
