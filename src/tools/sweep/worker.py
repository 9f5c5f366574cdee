"""A worker: one trial after another in a warm process, until the sweep has all of them.

A point that another trial has fitted, or is fitting, is not fitted again: it gives the same bits. The trial waits for
the other one and takes over its result. Two kinds of points are fitted again: those of fits with a seed drawn anew
(`seed_everything: true`), and those that failed in an earlier command, since something may have been mended.
"""

import gc
import time
from collections.abc import Callable
from typing import Any

import optuna
from filelock import FileLock
from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial, Trial, TrialState

from src.tools.sweep.check import printed
from src.tools.sweep.folder import Sweep
from src.tools.sweep.lease import LEASES, Lease, Leases
from src.tools.sweep.results import SAME_AS, describe, write_trials
from src.tools.sweep.study import find_trial, is_open, open_storage, open_study, suggest
from src.tools.sweep.trial import Outcome, options_of, run_trial

CREW = "crew"  # the attribute with the command whose processes ran a trial last
DEATHS = "deaths"  # the attribute with the number of processes that a trial took along
ERROR = "error"
FOLDER = "folder"
SECONDS = "seconds"
WAIT_S = 0.5


def work(sweep: Sweep, crew: str, max_failures: int, leave_late: Callable[[], None] = lambda: None) -> None:
    """Take trials as long as there are some.

    Args:
        sweep: The sweep.
        crew: Names the command that this process works for; failures of others do not count.
        max_failures: So many in a row end it.
        leave_late: Leaves for a signal that came and was lost.
    """
    storage, leases = open_storage(sweep), Leases(sweep.folder / LEASES, crew)
    study = open_study(sweep, storage)
    gc.freeze()  # what stays for good need not be looked through after each trial
    while taken := take(sweep, study, storage, leases, max_failures):
        lease, trial = taken
        try:
            trial.set_user_attr(CREW, crew)
            outcome = _run(sweep, study, trial, max_failures)
            if outcome is None:
                continue
            if outcome.error:
                trial.set_user_attr(ERROR, outcome.error)
            study.tell(trial, outcome.value, outcome.state)
        finally:
            lease.release()
        write_trials(sweep, study)
        print(describe(sweep, study, trial.number), flush=True)
        leave_late()
    gc.unfreeze()


def _run(sweep: Sweep, study: optuna.Study, trial: Trial, max_failures: int) -> Outcome | None:
    """Draw a trial's point and fit it; None if it has to wait for another trial with the same point."""
    deaths, spent_s = (float(trial.user_attrs.get(key, 0)) for key in (DEATHS, SECONDS))
    if deaths >= max_failures:
        return Outcome(TrialState.FAIL, error=f"its process died {deaths:.0f} times; was there memory enough?")
    folder, start_s = sweep.run_folder(trial.number), time.perf_counter()
    with FileLock(sweep.folder / LEASES / "draw.lock"):  # of two that draw one point at the same instant one begins
        values = suggest(study, trial, sweep.plan)
        twin = None if FOLDER in trial.user_attrs else _twin(sweep, study, trial, values)
        trial.set_user_attr(SAME_AS, None if twin is None else twin.number)
        if twin is None:
            trial.set_user_attr(FOLDER, str(folder))
    if twin is not None:
        return _outcome_of(trial, twin)
    try:
        return run_trial(sweep.plan, trial, values, folder)
    finally:
        trial.set_user_attr(SECONDS, round(spent_s + time.perf_counter() - start_s, 3))


def _twin(sweep: Sweep, study: optuna.Study, trial: Trial, values: dict[str, Any]) -> FrozenTrial | None:
    """Find the trial whose fit has the same point, and so the same bits; None if there is none."""
    crew = trial.user_attrs[CREW]
    found = [
        other
        for other in study.get_trials(deepcopy=False)
        if other.params == trial.params
        and FOLDER in other.user_attrs
        and other.user_attrs.get(SAME_AS) is None
        and (other.state != TrialState.FAIL or other.user_attrs.get(CREW) == crew)
    ]
    if not found:
        return None
    try:
        config = printed(options_of(sweep.plan, values, sweep.folder))
    except SystemExit:
        return None  # the fit itself says what is wrong
    return None if isinstance(config["seed_everything"], bool) else found[0]


def _outcome_of(trial: Trial, twin: FrozenTrial) -> Outcome | None:
    if is_open(twin):
        return None
    trial.set_user_attr(FOLDER, twin.user_attrs[FOLDER])
    return Outcome(
        twin.state, twin.value if twin.state == TrialState.COMPLETE else None, twin.user_attrs.get(ERROR, "")
    )


def take(
    sweep: Sweep, study: optuna.Study, storage: BaseStorage, leases: Leases, max_failures: int
) -> tuple[Lease, Trial] | None:
    """The next trial: one that was cut short, one that waits, or a new one.

    While others run the last ones it stays: their process may die.

    Returns:
        The trial in the hands of this process alone; None where there is nothing left to do.
    """
    while True:
        known = study.get_trials(deepcopy=False)[: sweep.trials]
        if failed_in_a_row(known, leases.crew, max_failures):
            return None
        same = {trial.number: trial.user_attrs.get(SAME_AS) for trial in known}
        waits = {number for number, other in same.items() if other is not None and is_open(known[other])}
        for number in (trial.number for trial in known if is_open(trial) and trial.number not in waits):
            if found := _take(study, storage, leases, number):
                return found
        if len(known) < sweep.trials:
            study.enqueue_trial({})  # drawn when its turn comes
        elif not any(map(is_open, known)):
            return None
        else:
            time.sleep(WAIT_S)


def _take(study: optuna.Study, storage: BaseStorage, leases: Leases, number: int) -> tuple[Lease, Trial] | None:
    lease = leases.take(number)
    if lease is None:
        return None
    at = find_trial(study, storage, number)
    state = storage.get_trial(at).state
    if state == TrialState.RUNNING and lease.before == leases.crew:
        # Not the sweep was killed, but this process of it: perhaps for the memory that the trial takes.
        deaths = storage.get_trial_user_attrs(at).get(DEATHS, 0)
        storage.set_trial_user_attr(at, DEATHS, deaths + 1)
    # The storage lets only one have a trial that waits; one that runs belongs to the lease.
    if state == TrialState.RUNNING or (
        state == TrialState.WAITING and storage.set_trial_state_values(at, TrialState.RUNNING)
    ):
        return lease, Trial(study, at)
    lease.release()
    return None


def failed_in_a_row(trials: list[FrozenTrial], crew: str, number: int) -> list[FrozenTrial]:
    """Return the last trials that a command's processes ended, if there are so many and all of them failed.

    Their order is that of their numbers: the clocks of several machines need not agree.

    Args:
        trials: All, by number.
        crew: The command; what others ended, or an earlier one, does not count.
        number: How many are too many.
    """
    mine = [trial for trial in trials if trial.user_attrs.get(CREW) == crew and trial.user_attrs.get(SAME_AS) is None]
    last = [trial for trial in mine if trial.state.is_finished()][-number:]
    return last if len(last) == number and all(trial.state == TrialState.FAIL for trial in last) else []
