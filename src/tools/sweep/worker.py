"""A worker: one trial after another in a warm process, until the sweep has all of them."""

import gc
import time
from collections.abc import Callable

import optuna
from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial, Trial, TrialState

from src.tools.sweep.folder import Sweep
from src.tools.sweep.lease import LEASES, Lease, Leases
from src.tools.sweep.results import describe, write_trials
from src.tools.sweep.study import find_trial, is_open, open_storage, open_study, suggest
from src.tools.sweep.trial import Outcome, run_trial

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
            if outcome.error:
                trial.set_user_attr(ERROR, outcome.error)
            study.tell(trial, outcome.value, outcome.state)
        finally:
            lease.release()
        write_trials(sweep, study)
        print(describe(sweep, study, trial.number), flush=True)
        leave_late()
    gc.unfreeze()


def _run(sweep: Sweep, study: optuna.Study, trial: Trial, max_failures: int) -> Outcome:
    deaths, spent_s = (float(trial.user_attrs.get(key, 0)) for key in (DEATHS, SECONDS))
    if deaths >= max_failures:
        return Outcome(TrialState.FAIL, error=f"its process died {deaths:.0f} times; was there memory enough?")
    folder, start_s = sweep.run_folder(trial.number), time.perf_counter()
    trial.set_user_attr(FOLDER, str(folder))
    try:
        return run_trial(sweep.plan, trial, suggest(study, trial, sweep.plan), folder)
    finally:
        trial.set_user_attr(SECONDS, round(spent_s + time.perf_counter() - start_s, 3))


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
        for number in (trial.number for trial in known if is_open(trial)):
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
    last = [trial for trial in trials if trial.state.is_finished() and trial.user_attrs.get(CREW) == crew][-number:]
    return last if len(last) == number and all(trial.state == TrialState.FAIL for trial in last) else []
