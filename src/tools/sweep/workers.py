"""Several trials at once: each in a process of its own, on a GPU of its own."""

import contextlib
import multiprocessing
import os
import signal
import threading
from collections import Counter
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import torch
from optuna.trial import Trial

from src.tools.common.fits import MAX_FAILURES
from src.tools.sweep.search import Search, fit_trial


def search_with_workers(search: Search, number: int) -> None:
    """Fit so many trials at a time; another process continues the trial of one that dies."""
    kinds = multiprocessing.get_all_start_methods()
    context: Any = multiprocessing.get_context("forkserver" if "forkserver" in kinds else "spawn")
    context.set_forkserver_preload(["src.cli"])  # a process then starts in 0.1 s
    running: dict[Connection, tuple[BaseProcess, Trial, dict[str, str]]] = {}
    free, metric, deaths = _places(number), search.sweep.plan["metric"], Counter[int]()
    try:
        while True:
            while free and (found := search.next()):
                trial, folder, options = found
                pipe, end = context.Pipe()
                process = context.Process(target=work, args=(end, free[-1], folder, options, metric))
                process.start()
                end.close()
                running[pipe] = process, trial, free.pop()
            if not running:
                return
            ready: list[Any] = wait(list(running))
            for pipe in ready:
                process, trial, place = running[pipe]
                try:
                    message = pipe.recv()
                    if isinstance(message, tuple):
                        pipe.send(search.report(trial, message))
                        continue
                except (EOFError, OSError):
                    message = None
                process.join()
                del running[pipe]
                free.append(place)
                deaths[trial.number] += message is None
                if message is not None:
                    search.finish(trial, message)
                elif deaths[trial.number] == MAX_FAILURES:
                    search.finish(trial, f"its worker died {MAX_FAILURES} times (out of memory?)")
                else:
                    search.interrupted.append(trial)
                    died = f"worker died (exit code {process.exitcode})"
                    print(f"{died}; another continues trial {trial.number}", flush=True)
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
    """Return the environment of each process: a GPU of its own, its share of the threads."""
    threads = {"OMP_NUM_THREADS": str(max(1, torch.get_num_threads() // number))}
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "")
    gpus = visible.split(",") if visible else [str(gpu) for gpu in range(torch.cuda.device_count())]
    return [threads | ({"CUDA_VISIBLE_DEVICES": gpus[place % len(gpus)]} if gpus else {}) for place in range(number)]


def work(pipe: Connection, place: dict[str, str], folder: Path, options: list[str], metric: str) -> None:
    """Fit a trial; send (step, value) of each validation and wait for the answer; send the reason of a failure."""
    os.environ.update(place)
    torch.set_num_threads(int(place["OMP_NUM_THREADS"]))
    if hasattr(os, "setsid"):
        os.setsid()  # Ctrl-C in the terminal reaches the parent alone, which ends each process once
    threading.Thread(target=_end_with_parent, daemon=True).start()

    def report(validation: tuple[int, float]) -> bool:
        with contextlib.suppress(EOFError, OSError):  # the parent is gone: a signal follows
            pipe.send(validation)
            return bool(pipe.recv())
        return False

    error = fit_trial(folder, options, metric, report)
    with contextlib.suppress(OSError):
        pipe.send(error)


def _end_with_parent() -> None:
    if parent := multiprocessing.parent_process():
        wait([parent.sentinel])
        os.kill(os.getpid(), signal.SIGTERM)
