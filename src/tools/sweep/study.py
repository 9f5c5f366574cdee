"""Optuna's part of a sweep: the database, the study, its sampler and its pruner."""

import functools
import hashlib
import sqlite3
import time
import warnings
from typing import TYPE_CHECKING, Any

import optuna
from jsonargparse import ArgumentParser
from optuna.pruners import BasePruner, NopPruner
from optuna.samplers import BaseSampler, PartialFixedSampler, RandomSampler
from optuna.storages import RDBStorage, RetryHeartbeatStaleTrialCallback
from optuna.trial import FixedTrial, FrozenTrial, Trial

from src.tools.common import refuse
from src.tools.sweep.space import draw

if TYPE_CHECKING:
    from src.tools.sweep.plan import Sweep

HEARTBEAT_S = 20
NUM_RETRIES = 3
NUM_REHEARSED = 12  # Optuna's samplers start with ten random trials at most
optuna.logging.set_verbosity(optuna.logging.ERROR)
warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)


def open_storage(sweep: "Sweep") -> RDBStorage:
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


def open_study(sweep: "Sweep", storage: RDBStorage | None) -> optuna.Study:
    """Open the study, or create it; without a storage it stays in memory."""
    return optuna.create_study(
        storage=storage,
        study_name=str(sweep.folder.absolute()) if sweep.plan["storage"] else "sweep",
        direction=sweep.plan["direction"],
        pruner=_make(BasePruner, "pruner", sweep.plan["pruner"]) if sweep.plan["pruner"] else NopPruner(),
        load_if_exists=True,
    )


def trials_of(study: optuna.Study) -> list[FrozenTrial]:
    """Return the trials; of one that was retried on another machine only the last attempt."""
    every = study.get_trials(deepcopy=False)
    retried = {number for trial in every for number in RetryHeartbeatStaleTrialCallback.retry_history(trial)}
    return [trial for trial in every if trial.number not in retried]


def number_of(study: optuna.Study, number: int) -> int:
    """Return the number of a trial's first attempt, which names its folder and seeds its sampler."""
    first = RetryHeartbeatStaleTrialCallback.retried_trial_number(study.get_trials(deepcopy=False)[number])
    return number if first is None else first


def suggest(sweep: "Sweep", study: optuna.Study, trial: Trial) -> dict[str, Any]:
    """Draw a trial's point: the value of each option, the label of a choice.

    It depends on the seed, the trial's number and the study, and on nothing else: the state of a sampler's generator is
    no part of a study, and a sweep that continues would draw the same again.
    """
    kind, number = sweep.plan["sampler"], number_of(study, trial.number)
    seed = int((kind.get("init_args") or {}).get("seed") or 0)

    def begin(key: str) -> None:
        own = int.from_bytes(hashlib.sha256(f"{seed} {number} {key}".encode()).digest()[:4])
        if sweep.grid:
            place = sum(number_of(study, before) == before for before in range(number)) % len(sweep.grid)
            study.sampler = PartialFixedSampler(sweep.grid[place], RandomSampler(own))
        else:  # a quasi-random sequence is one for all trials
            study.sampler = _make(BaseSampler, "sampler", kind, seed if "QMC" in kind["class_path"] else own)

    begin("")
    _ = trial.relative_params  # what the sampler draws for all options at once
    return draw(sweep.space, trial, begin)


def drawn_by(sweep: "Sweep", trial: FrozenTrial) -> dict[str, Any]:
    """Return what a trial has drawn; nothing before it has drawn all."""
    try:
        return draw(sweep.space, FixedTrial(trial.params))
    except ValueError:
        return {}


def rehearse(sweep: "Sweep") -> None:
    """Draw a few points in memory, so that a sampler that cannot draw is reported before any fit."""
    study = open_study(sweep, None)
    try:
        for value in range(NUM_REHEARSED):
            trial = study.ask()
            suggest(sweep, study, trial)
            study.tell(trial, float(value))
    except (ImportError, ValueError, RuntimeError) as error:  # a sampler that stops the study has it running
        refuse(f"sampler: {sweep.plan['sampler']['class_path']}: {' '.join(str(error).split())}")


@functools.cache
def _parser(base: type, name: str) -> ArgumentParser:
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument(f"--{name}", type=base)
    return parser


def _make(base: type, name: str, given: dict[str, Any], seed: int | None = None) -> Any:
    """Instantiate a sampler or a pruner, with a seed if it takes one."""
    try:
        given = {key: value for key, value in given.items() if value is not None}  # init_args, left empty
        config = _parser(base, name).parse_object({name: given})
        if "seed" in config[name].get("init_args", {}):
            config[name].init_args.seed = seed
        return _parser(base, name).instantiate(config)[name]
    except Exception as error:  # jsonargparse's, or the class's own
        reason = " ".join(str(error).split()).replace("Parser key ", "").replace('"', "").removeprefix(f"{name}: ")
        refuse(f"{name}: {given.get('class_path')}: {reason}.")
