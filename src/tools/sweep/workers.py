"""Several trials at once: each in a process of its own, on a GPU of its own."""

import contextlib
import multiprocessing
import os
import signal
import threading
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import torch
from optuna.trial import Trial

from src.tools.sweep.search import Search, fit_trial


def search_with_workers(search: Search, number: int) -> None:
    """Fit so many trials at a time; another process continues the trial of one that dies."""
    kinds = multiprocessing.get_all_start_methods()
    context: Any = multiprocessing.get_context("forkserver" if "forkserver" in kinds else "spawn")
    context.set_forkserver_preload(["src.cli"])  # a process then starts in 0.1 s
    running: dict[Connection, tuple[BaseProcess, Trial, dict[str, str]]] = {}
    free, metric = _places(number), search.sweep.plan["metric"]
    try:
        while True:
            while free and (found := search.next()):
                trial, folder, point = found
                pipe, end = context.Pipe()
                process = context.Process(target=work, args=(end, free[-1], folder, point, metric))
                process.start()
                end.close()
                running[pipe] = process, trial, free.pop()
            if not running:
                return
            ready = wait(list(running))
            for pipe in [pipe for pipe in running if pipe in ready]:
                process, trial, place = running[pipe]
                try:
                    message = pipe.recv()
                except (EOFError, OSError):
                    message = None
                if isinstance(message, tuple):
                    pipe.send(search.report(trial, message))
                    continue
                process.join()
                del running[pipe]
                free.append(place)
                if message is None:
                    search.deaths[trial.number] += 1
                    search.interrupted.append(trial)
                    print(
                        f"worker died (exit code {process.exitcode}); another continues trial {trial.number}",
                        flush=True,
                    )
                else:
                    search.finish(trial, message)
    finally:
        processes = [process for process, _, _ in running.values()]
        try:
            for process in processes:
                process.terminate()
            for process in processes:
                process.join()
        finally:  # after a second signal
            for process in processes:
                process.kill()


def _places(number: int) -> list[dict[str, str]]:
    """Return the environment of each process: a GPU of its own, its share of the cores."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    threads = {"OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", str(max(1, cores // number)))}
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "")
    gpus = visible.split(",") if visible else [str(gpu) for gpu in range(torch.cuda.device_count())]
    return [threads | ({"CUDA_VISIBLE_DEVICES": gpus[place % len(gpus)]} if gpus else {}) for place in range(number)]


def work(pipe: Connection, place: dict[str, str], folder: Path, point: dict[str, Any], metric: str) -> None:
    """Fit a point; send (step, value) of each validation and wait for the answer; send the reason of a failure."""
    os.environ.update(place)
    torch.set_num_threads(int(place["OMP_NUM_THREADS"]))
    if hasattr(os, "setsid"):
        os.setsid()  # Ctrl-C in the terminal reaches the parent alone, which ends each process once
    threading.Thread(target=_end_with_parent, daemon=True).start()

    def report(validation: tuple[int, float]) -> bool:
        try:
            pipe.send(validation)
            return bool(pipe.recv())
        except (EOFError, OSError):  # the parent is gone: a signal follows
            return False

    error = fit_trial(folder, point, metric, report)
    with contextlib.suppress(OSError):
        pipe.send(error)


def _end_with_parent() -> None:
    if parent := multiprocessing.parent_process():
        wait([parent.sentinel])
        os.kill(os.getpid(), signal.SIGTERM)
