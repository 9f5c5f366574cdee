"""The search: Optuna proposes points, and this process fits them or hands them to warm workers.

One process of a machine works on a sweep. It holds the sweep's lock, and it alone writes the study and asks the pruner.
Several machines share a database instead, by Optuna's own means alone: see `search_with_others`.
"""

import contextlib
import functools
import multiprocessing
import os
import shutil
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, NamedTuple

import optuna
import torch
from filelock import FileLock
from lightning.pytorch import Callback, LightningModule, Trainer
from optuna.trial import FrozenTrial, Trial, TrialState

from src.tools.common import refuse, run_verb, summary_of, write
from src.tools.sweep.plan import BASE, Sweep
from src.tools.sweep.results import SAME_AS, describe, write_trials
from src.tools.sweep.space import as_yaml
from src.tools.sweep.study import HEARTBEAT_S, number_of, open_storage, open_study, suggest, trials_of

PRUNED = "pruned"  # attribute of a trial that the pruner found hopeless
STEPS = "steps"  # attribute with the training step of each validation
Report = Callable[[int, float], bool]  # takes a step and a value, returns whether to stop


class Job(NamedTuple):
    """Describes a fit: the run's folder, its point as YAML, and the metric to report after each validation."""

    folder: Path
    point: str
    metric: str


class Outcome(NamedTuple):
    """Describes how a trial ended: its best validation, the seconds of all parts, the error of a failed one."""

    value: float | None = None
    seconds: float = 0.0
    error: str = ""


class Reports(Callback):
    """Reports each validation; stops the fit in good order where the pruner finds it hopeless."""

    def __init__(self, metric: str, report: Report) -> None:
        self.metric, self.report = metric, report

    def on_validation_end(self, trainer: Trainer, module: LightningModule) -> None:
        found = trainer.callback_metrics.get(self.metric)
        if trainer.state.fn == "fit" and not trainer.sanity_checking and found is not None:
            trainer.should_stop |= self.report(trainer.global_step, float(found))


def fit(job: Job, report: Report) -> Outcome:
    """Fit, or resume a fit that was interrupted; a signal ends it by SystemExit."""
    folder, last = job.folder, job.folder / "checkpoints" / "last.ckpt"
    words = ["fit", "--ckpt_path", last]
    with FileLock(folder.parent / ".locks" / folder.name):  # a worker whose sweep was killed may still be saving
        if not last.exists():
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True)
            write(folder / "point.yaml", job.point)
            words = ["fit", "--config", folder.parent / BASE, "--config", folder / "point.yaml"]
        _, error = run_verb(words, folder / "output.txt", [Reports(job.metric, report)], folder)
    summary = summary_of(folder)
    value, seconds = summary.get("best"), summary.get("seconds", 0.0)
    if error or not isinstance(value, int | float):
        return Outcome(None, seconds, error or f"no validation gave a number for {job.metric}")
    return Outcome(value, seconds)


class Search:
    """The trials of a sweep.

    Args:
        sweep: The sweep.
        max_failures: So many failures in a row end the search; so many workers may die with one trial.
    """

    def __init__(self, sweep: Sweep, max_failures: int) -> None:
        self.sweep, self.max_failures = sweep, max_failures
        self.storage = open_storage(sweep)
        self.study = open_study(sweep, self.storage)
        begun = trials_of(self.study)
        if sweep.trials < len(begun):
            refuse(f"--trials {sweep.trials}: {len(begun)} have begun in {sweep.folder}. Name at least as many.")
        self.interrupted = [trial.number for trial in begun if trial.state == TrialState.RUNNING]
        self.num_failed = 0  # in a row
        self.deaths: Counter[int] = Counter()

    def next(self) -> tuple[Trial, Job] | None:
        """Take the next trial that has to be fitted: an interrupted one, or a new one."""
        while self.num_failed < self.max_failures:
            if self.interrupted:
                study_id = self.storage.get_study_id_from_name(self.study.study_name)
                number = self.interrupted.pop(0)
                trial = Trial(self.study, self.storage.get_trial_id_from_study_id_trial_number(study_id, number))
            elif len(trials_of(self.study)) < self.sweep.trials:
                trial = self.study.ask()
            else:
                return None
            found = self.prepare(trial)
            if isinstance(found, Job):
                return trial, found
            self.finish(trial, found)
        return None

    def prepare(self, trial: Trial) -> Job | Outcome:
        """Draw a trial's point; return its job, or its outcome if there is nothing to fit.

        A point that was fitted is not fitted again: it would give the same bits, unless each fit draws a seed.
        """
        config, about = self.sweep.point(suggest(self.sweep, self.study, trial)), trial.user_attrs
        if about.get(PRUNED):
            return Outcome(seconds=summary_of(Path(about["folder"])).get("seconds", 0.0))
        if (deaths := self.deaths[trial.number]) >= self.max_failures:
            return Outcome(error=f"its worker died {deaths} times (out of memory?)")
        same = [other for other in self.study.get_trials(False, (TrialState.COMPLETE, TrialState.PRUNED))
                if other.params == trial.params and SAME_AS not in other.user_attrs]  # fmt: skip
        draws_seed = isinstance(config.get("seed_everything", self.sweep.base["seed_everything"]), bool)
        if same and "folder" not in about and not draws_seed:
            trial.set_user_attr("folder", same[0].user_attrs["folder"])
            trial.set_user_attr(SAME_AS, same[0].number)
            trial.set_user_attr(PRUNED, same[0].state == TrialState.PRUNED)
            return Outcome(same[0].value)
        folder = self.sweep.folder / f"version_{number_of(self.study, trial.number)}"
        trial.set_user_attr("folder", str(folder))
        return Job(folder, as_yaml(config), self.sweep.plan["metric"])

    def report(self, trial: Trial, step: int, value: float) -> bool:
        """Report a validation, the n-th one as the n-th step of the study; return whether the trial is hopeless."""
        steps = trial.user_attrs.get(STEPS, [])
        if step not in steps:  # else a resumed fit repeats it
            steps = [*steps, step]
            trial.report(value, len(steps))
            trial.set_user_attr(STEPS, steps)
        if step == steps[-1] and trial.should_prune():  # decided again: a kill may have come in between
            trial.set_user_attr(PRUNED, True)
        return bool(trial.user_attrs.get(PRUNED))

    def note(self, trial: Trial, outcome: Outcome) -> TrialState:
        """Store what a trial left; return its state."""
        trial.set_user_attr("seconds", outcome.seconds)
        trial.set_user_attr("error", outcome.error)
        is_pruned = trial.user_attrs.get(PRUNED)
        return TrialState.PRUNED if is_pruned else TrialState.FAIL if outcome.error else TrialState.COMPLETE

    def finish(self, trial: Trial, outcome: Outcome) -> None:
        """Tell the study how a trial ended."""
        state = self.note(trial, outcome)
        self.show(self.study, self.study.tell(trial, outcome.value if state == TrialState.COMPLETE else None, state))

    def show(self, study: optuna.Study, trial: FrozenTrial) -> None:
        """Write `trials.csv` and print a line for a trial that has ended."""
        self.num_failed = self.num_failed + 1 if trial.state == TrialState.FAIL else 0
        write_trials(self.sweep, study)
        print(describe(self.sweep, study, trial), flush=True)


def search_here(search: Search) -> None:
    """Fit one trial after another in this process."""
    while found := search.next():
        trial, job = found
        search.finish(trial, fit(job, functools.partial(search.report, trial)))


def search_with_others(search: Search) -> None:
    """Fit trials of a study that several machines share in a database.

    Start the same command on each machine, in a folder on a shared disk. Optuna's heartbeat finds a trial whose machine
    died and retries it; the new trial resumes in the folder of the first one. Optuna's caveats: heartbeat and retry are
    experimental and work with an RDB storage only, and SQLite is not recommended for parallel writers. A dead trial is
    noticed after a minute, when another machine asks for its next trial. A retry has a number of its own. Machines
    that ask at the same instant may run a few trials too many.
    """

    def objective(trial: Trial) -> float:
        found = search.prepare(trial)
        outcome = fit(found, functools.partial(search.report, trial)) if isinstance(found, Job) else found
        if search.note(trial, outcome) == TrialState.PRUNED:
            raise optuna.TrialPruned
        return float("nan") if outcome.value is None else outcome.value  # Optuna takes NaN for a failure

    while search.num_failed < search.max_failures:
        optuna.storages.fail_stale_trials(search.study)
        states = [trial.state for trial in trials_of(search.study)]
        if len(states) < search.sweep.trials or TrialState.WAITING in states:
            search.study.optimize(objective, n_trials=1, callbacks=[search.show])
        elif TrialState.RUNNING in states:
            time.sleep(HEARTBEAT_S)  # its machine may die
        else:
            return


def search_with_workers(search: Search, number: int) -> None:
    """Hand the trials to several warm processes; replace one that dies and give its trial to the new one."""
    kinds = multiprocessing.get_all_start_methods()
    context: Any = multiprocessing.get_context("forkserver" if "forkserver" in kinds else "spawn")
    context.set_forkserver_preload(["src.cli"])  # a worker then starts in 0.1 s
    workers: dict[Connection, tuple[BaseProcess, dict[str, str]]] = {}
    busy: dict[Connection, Trial] = {}

    def start(place: dict[str, str]) -> None:
        pipe, end = context.Pipe()
        process = context.Process(target=serve, args=(end, place))
        process.start()
        end.close()
        workers[pipe] = process, place

    try:
        for place in _places(number):
            start(place)
        while True:
            for pipe in [pipe for pipe in workers if pipe not in busy]:
                if found := search.next():
                    busy[pipe], job = found
                    with contextlib.suppress(BrokenPipeError):  # it died, as the next `recv` says
                        pipe.send(job)
            if not busy:
                return
            ready = wait(list(busy))
            for pipe in [pipe for pipe in busy if pipe in ready]:
                try:
                    message = pipe.recv()
                except (EOFError, OSError):
                    (process, place), died = workers.pop(pipe), busy.pop(pipe).number
                    process.join()
                    print(f"worker died (exit code {process.exitcode}); another continues trial {died}", flush=True)
                    search.deaths[died] += 1
                    search.interrupted.append(died)
                    start(place)
                    continue
                if isinstance(message, Outcome):
                    search.finish(busy.pop(pipe), message)
                else:
                    pipe.send(search.report(busy[pipe], *message))
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


def serve(pipe: Connection, place: dict[str, str]) -> None:
    """Fit the jobs that a pipe gives, as long as the parent lives; send reports, which are answered, and outcomes."""
    os.environ.update(place)
    torch.set_num_threads(int(place["OMP_NUM_THREADS"]))
    if hasattr(os, "setsid"):
        os.setsid()  # Ctrl-C in the terminal reaches the parent alone, which ends each worker once
    threading.Thread(target=_end_with_parent, daemon=True).start()

    def report(step: int, value: float) -> bool:
        pipe.send((step, value))
        return bool(pipe.recv())

    while True:
        pipe.send(fit(pipe.recv(), report))


def _end_with_parent() -> None:
    if parent := multiprocessing.parent_process():
        wait([parent.sentinel])
        os.kill(os.getpid(), signal.SIGTERM)
