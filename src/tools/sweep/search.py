"""Search: Optuna proposes points, and this process fits them or hands them to warm workers.

One process of a machine works on a sweep. It holds the sweep's lock, and it alone writes the study and asks the pruner.
Several machines share a database instead, by Optuna's own means alone: see `search_with_others`.
"""

import functools
import hashlib
import sqlite3
import time
import warnings
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
from filelock import FileLock
from lightning.pytorch import Callback, LightningModule, Trainer
from optuna.pruners import BasePruner
from optuna.samplers import BaseSampler
from optuna.storages import RDBStorage, RetryHeartbeatStaleTrialCallback
from optuna.trial import FrozenTrial, Trial, TrialState

from src.tools.common import refuse, write
from src.tools.common.fits import POINT, as_yaml, begin_anew, fit_words, has_checkpoint, run_verb, summary_of
from src.tools.sweep.plan import Sweep, make
from src.tools.sweep.results import describe, trials_of, write_trials
from src.tools.sweep.space import draw

HEARTBEAT_S = 20
NUM_RETRIES = 3
PRUNED = "pruned"  # attribute of a trial that the pruner found hopeless
STEPS = "steps"  # attribute with the training step of each validation
Report = Callable[[tuple[int, float]], bool]  # takes a step and a value, returns whether to stop
optuna.logging.set_verbosity(optuna.logging.ERROR)
warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)


class Reports(Callback):
    """Reports each validation; stops the fit in good order where the pruner finds it hopeless."""

    def __init__(self, metric: str, report: Report) -> None:
        self.metric, self.report = metric, report

    def on_validation_end(self, trainer: Trainer, module: LightningModule) -> None:
        found = trainer.callback_metrics.get(self.metric)
        if trainer.state.fn == "fit" and not trainer.sanity_checking and found is not None:
            trainer.should_stop |= self.report((trainer.global_step, float(found)))


def open_storage(sweep: Sweep) -> RDBStorage:
    """Open the database: a file in the sweep's folder, or the one that several machines share."""
    url = sweep.plan["storage"]
    if url is None:
        file = str((sweep.folder / "study.db").absolute())
        # The path stays out of the address, where `?`, `#`, `%` and `{` have a meaning.
        creator = functools.partial(sqlite3.connect, file, check_same_thread=False)
        return RDBStorage("sqlite:///study.db", {"creator": creator})
    retry: dict[str, Any] = {
        "heartbeat_interval": HEARTBEAT_S,
        "grace_period": 3 * HEARTBEAT_S,
        "heartbeat_stale_trial_callback": RetryHeartbeatStaleTrialCallback(NUM_RETRIES, True),
    }
    for wait_s in (1, 3, 0):
        try:
            return RDBStorage(url, **retry)
        except Exception as error:  # each database has errors of its own
            reason = " ".join(str(error).partition("(Background on")[0].split())
            time.sleep(wait_s)  # another machine may have created the tables at the same instant
    refuse(f"--storage {url}: {reason}. Is the database running, and its driver installed?")


def open_study(sweep: Sweep) -> tuple[optuna.Study, RDBStorage]:
    """Open the study and its storage, or create them."""
    storage = open_storage(sweep)
    study = optuna.create_study(
        storage=storage,
        study_name=str(sweep.folder.absolute()) if sweep.plan["storage"] else "sweep",
        direction=sweep.plan["direction"],
        pruner=make(BasePruner, sweep.plan["pruner"]),
        load_if_exists=True,
    )
    for point in sweep.grid[len(study.get_trials(deepcopy=False)) :]:  # the others wait already, or have begun
        study.enqueue_trial(point, skip_if_exists=sweep.plan["storage"] is not None)
    return study, storage


def suggest(sweep: Sweep, study: optuna.Study, trial: Trial) -> dict[str, Any]:
    """Draw a trial's point: the value of each option, the label of a choice.

    It depends on the sampler's seed, the trial's number and the study alone, so that a killed sweep draws the same.
    """
    if not sweep.grid:  # whose trials have their values from the start
        kind = sweep.plan["sampler"]
        seed = int(kind.get("init_args", {}).get("seed") or 0)
        own = int.from_bytes(hashlib.sha256(f"{seed} {trial.number}".encode()).digest()[:4])
        # A quasi-random sequence is one for all trials.
        study.sampler = make(BaseSampler, kind, seed if "QMC" in kind["class_path"] else own)
    try:
        return draw(sweep.space, trial)
    except (ImportError, ValueError) as error:
        refuse(f"sampler: {sweep.plan['sampler']['class_path']}: {' '.join(str(error).split())}")


def fit(folder: Path, metric: str, report: Report) -> str:
    """Fit the point in a run's folder, or resume its fit; return the reason of a failure in one line, or nothing."""
    with FileLock(folder.parent / ".locks" / folder.name):  # a worker whose sweep was killed may still be saving
        if not has_checkpoint(folder):
            begin_anew(folder)
        return run_verb(fit_words(folder), [Reports(metric, report)], folder, folder / "output.txt")


class Search:
    """The trials of a sweep.

    Args:
        sweep: The sweep.
        max_failures: So many failures in a row end the search; so many workers may die with one trial.
    """

    def __init__(self, sweep: Sweep, max_failures: int) -> None:
        self.sweep, self.max_failures, self.metric = sweep, max_failures, sweep.plan["metric"]
        self.study, storage = open_study(sweep)
        begun = trials_of(self.study)
        if sweep.trials < len(begun):
            refuse(f"--trials {sweep.trials}: {sweep.folder} has {len(begun)} trials. Set --trials to that or more.")
        study_id = storage.get_study_id_from_name(self.study.study_name)
        running = [trial.number for trial in begun if trial.state == TrialState.RUNNING]
        ids = [storage.get_trial_id_from_study_id_trial_number(study_id, number) for number in running]
        self.interrupted = [Trial(self.study, each) for each in ids]
        self.num_failed = 0  # in a row
        self.deaths: Counter[int] = Counter()

    def next(self) -> tuple[Trial, Path] | None:
        """Take the next trial that has to be fitted, an interrupted one or a new one; return it with its folder."""
        while self.num_failed < self.max_failures:
            if self.interrupted:
                trial = self.interrupted.pop(0)
            elif len(trials_of(self.study)) < self.sweep.trials:
                trial = self.study.ask()
            else:
                return None
            folder = self.prepare(trial)
            if (deaths := self.deaths[trial.number]) < self.max_failures:
                return trial, folder
            self.finish(trial, f"its worker died {deaths} times (out of memory?)")
        return None

    def prepare(self, trial: Trial) -> Path:
        """Draw a trial's point; return the folder of its run.

        A point that was fitted has its folder already, where nothing is left to do: another fit would give the same
        bits, unless each draws a seed.
        """
        config = self.sweep.point(suggest(self.sweep, self.study, trial))
        draws_seed = isinstance(config.get("seed_everything", self.sweep.base["seed_everything"]), bool)
        others = [] if draws_seed else self.study.get_trials(deepcopy=False)
        new = {"folder": str(self.sweep.folder / f"version_{trial.number}"), PRUNED: False}
        same = [other.user_attrs for other in others if other.params == trial.params and "folder" in other.user_attrs]
        known = trial.user_attrs if "folder" in trial.user_attrs else [*same, new][0]
        folder = Path(known["folder"])
        trial.set_user_attr("folder", str(folder))
        trial.set_user_attr(PRUNED, known.get(PRUNED, False))
        folder.mkdir(parents=True, exist_ok=True)
        write(folder / POINT, as_yaml(config))
        return folder

    def report(self, trial: Trial, validation: tuple[int, float]) -> bool:
        """Report the n-th validation to Optuna as step n; return whether to prune the trial."""
        step, value = validation
        steps = trial.user_attrs.get(STEPS, [])
        if trial.user_attrs[PRUNED]:
            return True
        if step not in steps:  # else a resumed fit repeats it
            steps = [*steps, step]
            trial.report(value, len(steps))
            trial.set_user_attr(STEPS, steps)
        is_hopeless = step == steps[-1] and trial.should_prune()  # decided again: a kill may have come in between
        trial.set_user_attr(PRUNED, bool(is_hopeless))  # JSON knows no NumPy
        return is_hopeless

    def note(self, trial: Trial, error: str) -> tuple[TrialState, float | None]:
        """Store what a trial left; return its state and its best validation."""
        summary = summary_of(Path(trial.user_attrs["folder"]))
        value = summary.get("best")
        if not isinstance(value, int | float):
            error = error or f"no validation gave a number for {self.metric}"
        trial.set_user_attr("seconds", summary.get("seconds", 0.0))
        trial.set_user_attr("error", error)
        if trial.user_attrs[PRUNED]:
            return TrialState.PRUNED, None
        return (TrialState.FAIL, None) if error else (TrialState.COMPLETE, value)

    def finish(self, trial: Trial, error: str) -> None:
        """Tell the study how a trial ended."""
        state, value = self.note(trial, error)
        self.show(self.study, self.study.tell(trial, value, state))

    def show(self, study: optuna.Study, trial: FrozenTrial) -> None:
        """Write `trials.csv` and print a line for a trial that has ended."""
        self.num_failed = self.num_failed + 1 if trial.state == TrialState.FAIL else 0
        write_trials(self.sweep, study)
        print(describe(self.sweep, study, trial), flush=True)


def search_here(search: Search) -> None:
    """Fit one trial after another in this process."""
    while found := search.next():
        trial, folder = found
        search.finish(trial, fit(folder, search.metric, functools.partial(search.report, trial)))


def search_with_others(search: Search) -> None:
    """Fit trials of a study that several machines share in a database.

    Start the same command on each machine, in a folder on a shared disk. Optuna's heartbeat, which is experimental,
    finds a trial whose machine died, a minute later and when another machine asks for its next trial. The retry has a
    number of its own and resumes in the folder of the first one. Machines that ask at the same instant may run a few
    trials too many.
    """

    def objective(trial: Trial) -> float:
        error = fit(search.prepare(trial), search.metric, functools.partial(search.report, trial))
        state, value = search.note(trial, error)
        if state == TrialState.PRUNED:
            raise optuna.TrialPruned
        return float("nan") if value is None else value  # Optuna takes NaN for a failure

    while search.num_failed < search.max_failures:
        optuna.storages.fail_stale_trials(search.study)
        begun = trials_of(search.study)
        if len(begun) < search.sweep.trials:
            search.study.optimize(objective, n_trials=1, callbacks=[search.show])
        elif TrialState.RUNNING in [trial.state for trial in begun]:
            time.sleep(HEARTBEAT_S)  # its machine may die
        else:
            return
