"""Warm workers: hand trials to processes that stay, and replace one that dies."""

import contextlib
import multiprocessing
import os
import signal
import threading
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any

import torch
from optuna.trial import Trial

from src.tools.sweep.search import Search, fit


def search_with_workers(search: Search, number: int) -> None:
    """Hand the trials to several warm processes; replace one that dies and give its trial to the new one."""
    kinds = multiprocessing.get_all_start_methods()
    context: Any = multiprocessing.get_context("forkserver" if "forkserver" in kinds else "spawn")
    context.set_forkserver_preload(["src.cli"])  # a worker then starts in 0.1 s
    workers: dict[Connection, tuple[BaseProcess, dict[str, str]]] = {}
    busy: dict[Connection, Trial] = {}

    def start(place: dict[str, str]) -> None:
        pipe, end = context.Pipe()
        process = context.Process(target=serve, args=(end, place, search.metric))
        process.start()
        end.close()
        workers[pipe] = process, place

    try:
        for place in _places(number):
            start(place)
        while True:
            for pipe in [pipe for pipe in workers if pipe not in busy]:
                if found := search.next():
                    busy[pipe], folder = found
                    with contextlib.suppress(BrokenPipeError):  # it died, as the next `recv` says
                        pipe.send(folder)
            if not busy:
                return
            ready = wait(list(busy))
            for pipe in [pipe for pipe in busy if pipe in ready]:
                try:
                    message = pipe.recv()
                except (EOFError, OSError):
                    (process, place), trial = workers.pop(pipe), busy.pop(pipe)
                    process.join()
                    print(f"worker died (exit code {process.exitcode}); another continues trial {trial.number}",
                          flush=True)  # fmt: skip
                    search.deaths[trial.number] += 1
                    search.interrupted.append(trial)
                    start(place)
                    continue
                if isinstance(message, str):
                    search.finish(busy.pop(pipe), message)
                else:
                    pipe.send(search.report(busy[pipe], message))
    finally:
        processes = [process for process, _ in workers.values()]
        try:
            for process in processes:
                process.terminate()
            for process in processes:
                process.join()
        finally:  # after a second signal
            for process in processes:
                process.kill()


def _places(number: int) -> list[dict[str, str]]:
    """Return the environment of each worker: a GPU of its own, its share of the cores."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    threads = {"OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", str(max(1, cores // number)))}
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "")
    gpus = visible.split(",") if visible else [str(gpu) for gpu in range(torch.cuda.device_count())]
    return [threads | ({"CUDA_VISIBLE_DEVICES": gpus[place % len(gpus)]} if gpus else {}) for place in range(number)]


def serve(pipe: Connection, place: dict[str, str], metric: str) -> None:
    """Fit each folder that comes through the pipe, until the parent ends.

    Send (step, value) of each validation and wait for the answer; then send the reason of a failure, or nothing.
    """
    os.environ.update(place)
    torch.set_num_threads(int(place["OMP_NUM_THREADS"]))
    if hasattr(os, "setsid"):
        os.setsid()  # Ctrl-C in the terminal reaches the parent alone, which ends each worker once
    threading.Thread(target=_end_with_parent, daemon=True).start()

    def report(validation: tuple[int, float]) -> bool:
        try:
            pipe.send(validation)
            return bool(pipe.recv())
        except (EOFError, OSError):  # the parent is gone: a signal follows
            return False

    with contextlib.suppress(EOFError, OSError):
        while True:
            pipe.send(fit(pipe.recv(), metric, report))


def _end_with_parent() -> None:
    if parent := multiprocessing.parent_process():
        wait([parent.sentinel])
        os.kill(os.getpid(), signal.SIGTERM)
