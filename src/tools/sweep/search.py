"""Search: Optuna proposes points, and this process fits them or hands them to other processes.

One process of a machine works on a sweep. It holds the sweep's lock, and it alone writes the study and asks the pruner.
Several machines share a database instead, by Optuna's own means alone: see `search_with_others`.
"""

import functools
import random
import sqlite3
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
from filelock import FileLock
from lightning.pytorch import Callback, LightningModule, Trainer
from optuna.storages import RDBStorage, RetryHeartbeatStaleTrialCallback
from optuna.trial import FrozenTrial, Trial, TrialState

from src.tools.common import refuse
from src.tools.common.fits import MAX_FAILURES, fit, summary_of
from src.tools.sweep.plan import Sweep, make
from src.tools.sweep.results import describe, trials_of, write_trials

HEARTBEAT_S = 20
NUM_RETRIES = 3
PRUNED = "pruned"  # file in the run of a trial that the pruner found hopeless
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


def fit_trial(folder: Path, options: list[str], metric: str, report: Report) -> str:
    """Fit with options in a run's folder, or resume its fit; return the reason of a failure in one line, or nothing."""
    with FileLock(folder.parent / ".locks" / folder.name):  # a process whose sweep was killed may still be saving
        return fit(folder, options, callbacks=[Reports(metric, report)], output=folder / "output.txt")


def open_storage(sweep: Sweep) -> RDBStorage:
    """Open the database, or create it: a file in the sweep's folder, or the one that several machines share."""
    if (url := sweep.plan["storage"]) is None:
        file = str((sweep.folder / "study.db").absolute())
        # The path stays out of the address, where `?`, `#`, `%` and `{` have a meaning.
        creator = functools.partial(sqlite3.connect, file, check_same_thread=False)
        return RDBStorage("sqlite:///study.db", {"creator": creator})
    retry = RetryHeartbeatStaleTrialCallback(NUM_RETRIES, inherit_intermediate_values=True)
    seconds: Any = {"heartbeat_interval": HEARTBEAT_S, "grace_period": 3 * HEARTBEAT_S}
    try:
        return RDBStorage(url, heartbeat_stale_trial_callback=retry, **seconds)
    except Exception as error:  # each database has errors of its own
        reason = " ".join(str(error).partition("(Background on")[0].split())
        refuse(f"--storage {url}: {reason}. Is the database running, and its driver installed?")


class Search:
    """The trials of a sweep."""

    def __init__(self, sweep: Sweep) -> None:
        self.sweep = sweep
        self.num_failed = 0  # in a row
        storage, name = open_storage(sweep), str(sweep.folder.absolute()) if sweep.plan["storage"] else "sweep"
        self.study = optuna.create_study(
            storage=storage,
            study_name=name,
            direction=sweep.plan["direction"],
            pruner=make("pruner", sweep.plan),
            load_if_exists=True,
        )
        for params in sweep.grid[len(self.study.get_trials(deepcopy=False)) :]:  # the others wait, or have begun
            self.study.enqueue_trial(params)
        begun = trials_of(self.study)
        if sweep.trials < len(begun):
            refuse(f"--trials {sweep.trials}: {sweep.folder} has {len(begun)} trials. Set --trials to that or more.")
        study_id = storage.get_study_id_from_name(name)
        running = [trial.number for trial in begun if trial.state == TrialState.RUNNING]
        find = storage.get_trial_id_from_study_id_trial_number
        self.interrupted = [Trial(self.study, find(study_id, number)) for number in running]

    def next(self) -> tuple[Trial, Path, list[str]] | None:
        """Take the next trial, an interrupted one or a new one; return it with its folder and its options."""
        is_complete = not self.interrupted and len(trials_of(self.study)) >= self.sweep.trials
        if is_complete or self.num_failed >= MAX_FAILURES:
            return None
        trial = self.interrupted.pop(0) if self.interrupted else self.study.ask()
        return trial, *self.place(trial)

    def place(self, trial: Trial) -> tuple[Path, list[str]]:
        """Return the folder of a trial's run and the options in which it differs.

        A point that came before has its folder already, where nothing is left to do: another fit would give the same
        bits, unless each draws a seed.
        """
        self.draw(trial)
        if "folder" not in trial.user_attrs:
            draws_seed = isinstance(trial.params.get("seed_everything", self.sweep.base["seed_everything"]), bool)
            others = [] if draws_seed else self.study.get_trials(deepcopy=False)
            first = min((each.number for each in others if each.params == trial.params), default=trial.number)
            trial.set_user_attr("folder", f"version_{first}")
        return self.sweep.run(trial), self.sweep.options(trial.params)

    def draw(self, trial: Trial) -> None:
        """Let a trial draw its parameters; one that has drawn keeps them.

        They depend on the sampler's seed, the trial's number and the study alone: a killed sweep draws the same.
        """
        kind = self.sweep.plan["sampler"]
        if not self.sweep.grid:  # whose trials have their values from the start
            seed = int(kind.get("init_args", {}).get("seed") or 0)
            own = random.Random(f"{seed} {trial.number}").getrandbits(32)
            # A quasi-random sequence is one for all trials.
            self.study.sampler = make("sampler", self.sweep.plan, seed if "QMC" in kind["class_path"] else own)
        try:
            for each in self.sweep.space:
                if each.belongs_to(trial.params):
                    each.draw(trial)
        except (ImportError, ValueError) as error:
            refuse(f"sampler: {' '.join(str(error).split())}")

    def report(self, trial: Trial, validation: tuple[int, float]) -> bool:
        """Report the n-th validation to Optuna as step n; return whether to prune the trial."""
        step, value = validation
        steps, pruned = trial.user_attrs.get(STEPS, []), self.sweep.run(trial) / PRUNED
        if pruned.exists():
            return True
        if step not in steps:  # else a resumed fit repeats it
            steps = [*steps, step]
            trial.report(value, len(steps))
            trial.set_user_attr(STEPS, steps)
        if step == steps[-1] and trial.should_prune():  # decided again: a kill may have come in between
            pruned.touch()
        return pruned.exists()

    def note(self, trial: Trial, error: str) -> tuple[TrialState, float | None]:
        """Store what a trial left; return its state and its best validation."""
        run = self.sweep.run(trial)
        value = summary_of(run).get("best")
        if not isinstance(value, int | float):
            error = error or f"no validation gave a number for {self.sweep.plan['metric']}"
        trial.set_user_attr("seconds", summary_of(run).get("seconds", 0.0))
        trial.set_user_attr("error", error)
        if (run / PRUNED).exists():
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
        print(describe(self.sweep, trial), flush=True)

    def fit(self, trial: Trial, folder: Path, options: list[str]) -> str:
        """Fit a trial in this process."""
        return fit_trial(folder, options, self.sweep.plan["metric"], functools.partial(self.report, trial))


def search_here(search: Search) -> None:
    """Fit one trial after another in this process."""
    while found := search.next():
        search.finish(found[0], search.fit(*found))


def search_with_others(search: Search) -> None:
    """Fit trials of a study that several machines share in a database.

    Begin the sweep on one machine, in a folder on a shared disk; join it on the others by --resume. Optuna's heartbeat,
    which is experimental, finds a trial whose machine died, a minute later and when another machine asks for its next
    trial. The retry has a number of its own and resumes in the folder of the first one. Machines that ask at the same
    instant may run a few trials too many.
    """

    def objective(trial: Trial) -> float:
        state, value = search.note(trial, search.fit(trial, *search.place(trial)))
        if state == TrialState.PRUNED:
            raise optuna.TrialPruned
        return float("nan") if value is None else value  # Optuna takes NaN for a failure

    while search.num_failed < MAX_FAILURES:
        optuna.storages.fail_stale_trials(search.study)
        begun = trials_of(search.study)
        if len(begun) < search.sweep.trials:
            search.study.optimize(objective, n_trials=1, callbacks=[search.show])
        elif TrialState.RUNNING in [trial.state for trial in begun]:
            time.sleep(HEARTBEAT_S)  # its machine may die
        else:
            return
