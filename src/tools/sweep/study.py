"""Optuna's side of a sweep: where the study lies, its sampler and its pruner, and who runs which trial."""

import functools
import hashlib
import importlib
import inspect
import json
import sqlite3
import time
import warnings
from dataclasses import asdict
from typing import Any

import optuna
import sqlalchemy
import yaml
from jsonargparse import ArgumentError, ArgumentParser, Namespace
from optuna.pruners import BasePruner, NopPruner
from optuna.samplers import BaseSampler, PartialFixedSampler, QMCSampler, RandomSampler
from optuna.storages import BaseStorage, JournalStorage, RDBStorage, get_storage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, Trial, TrialState

from src.tools.sweep.folder import Sweep
from src.tools.sweep.plan import Plan
from src.tools.sweep.space import points, refuse

PLAN = "plan"  # the study's attribute that says what its trials are
TRIES_S = (0.2, 0.5, 1.0, 0.0)  # pauses
REHEARSED = 12  # of Optuna's samplers each but the random one waits for ten trials at most


def open_storage(sweep: Sweep) -> BaseStorage:
    """Where the study lies.

    A file of SQLite by default: killed writers leave it whole, and whoever comes next waits for nobody. After a kill
    the journal's lock stays for half a minute; it is for a disk that machines share, where SQLite is not safe.
    """
    if sweep.storage == "journal":
        return JournalStorage(JournalFileBackend(str(sweep.folder / "study.journal")))
    url, options = sweep.storage, {}
    if url == "sqlite":
        file = str((sweep.folder / "study.db").absolute())
        # The path stays out of the address, where `?`, `#`, `%` and `{` mean something.
        url = "sqlite:///study.db"
        options = {"creator": lambda: sqlite3.connect(file, timeout=60, check_same_thread=False)}
    told = ""
    for wait_s in TRIES_S:
        try:
            storage = RDBStorage(url, engine_kwargs=options)
            if sweep.storage == "sqlite":
                _wait_less(storage)
            return get_storage(storage)
        except ImportError as error:
            refuse(f"--storage {url}: {error.msg.splitlines()[0]}. Install the database's driver.")
        except Exception as error:  # each database has errors of its own
            told = " ".join(str(error).partition("(Background on")[0].split())
            time.sleep(wait_s)  # another may have made the tables at the same instant
    refuse(f"--storage {sweep.storage}: {told}")


def _wait_less(storage: RDBStorage) -> None:
    """Let SQLite's commits not wait for the disk, a tenth of a second a trial.

    A killed process loses nothing by that. A machine without power may forget the last commits, never a part of one:
    then a trial goes on from its checkpoint once more.
    """

    def begin(connection: Any, record: Any) -> None:
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=NORMAL")

    sqlalchemy.event.listen(storage.engine, "connect", begin)
    storage.engine.dispose()  # those made before


def be_quiet() -> None:
    """Optuna tells each trial by itself, and of what is experimental in it."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)


def open_study(sweep: Sweep, storage: BaseStorage) -> optuna.Study:
    """The study, made if it is not there.

    Raises:
        SystemExit: If its trials are of another space, or something else of the plan differs.
    """
    be_quiet()
    is_own = sweep.storage in ("sqlite", "journal")
    # Hyperband deals trials out by the study's name: the same in each sweep that has a file of its own.
    study = optuna.create_study(
        storage=storage,
        study_name="sweep" if is_own else str(sweep.folder.absolute()),
        direction=sweep.plan.direction,
        pruner=make_pruner(sweep.plan),
        load_if_exists=True,
    )
    known = study.user_attrs.get(PLAN)
    if known is None:
        # As YAML: JSON would make a text of a choice that is a number.
        study.set_user_attr(PLAN, yaml.safe_dump(asdict(sweep.plan), sort_keys=False))
    elif found := sweep.plan.differences(yaml.safe_load(known)):
        refuse(f"{sweep.folder} is another sweep: {'; '.join(found)}. Go on with it as it was, or begin a new one.")
    return study


def make_sampler(plan: Plan, number: int, name: str = "") -> BaseSampler:
    """A trial's own sampler: what is drawn depends on the seed, the trial's number and the study, and on nothing else.

    The state of a sampler's generator is no part of a study: a sweep that goes on would draw the same again.

    Args:
        plan: Names its class and the seed.
        number: The trial's.
        name: What is drawn: a trial that was cut short while it drew draws the rest as it would have.
    """
    seed = int((plan.sampler.get("init_args") or {}).get("seed") or 0)
    own = int.from_bytes(hashlib.sha256(f"{seed} {number} {name}".encode()).digest()[:4])
    if plan.is_grid:
        return PartialFixedSampler(points(plan.read)[number], RandomSampler(own))
    sampler: BaseSampler = _make(BaseSampler, "sampler", plan.sampler, seed, own)
    return sampler


def make_pruner(plan: Plan) -> BasePruner:
    """What decides whether a trial is hopeless."""
    pruner: BasePruner = _make(BasePruner, "pruner", plan.pruner) if plan.pruner else NopPruner()
    return pruner


@functools.cache
def _parsed(base: type, name: str, given: str) -> tuple[ArgumentParser, Namespace]:
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument(f"--{name}", type=base)
    try:
        return parser, parser.parse_object({name: json.loads(given)})
    except (ArgumentError, ValueError, TypeError) as error:
        told = " ".join(str(error).split()).replace("Parser key ", "").replace('"', "")
        refuse(f"{name}: {told.removeprefix(f'{name}: ')}.")


def _make(base: type, name: str, given: dict[str, Any], seed: int | None = None, own: int | None = None) -> Any:
    parser, parsed = _parsed(base, name, json.dumps(given))
    config = parsed.clone()
    module, _, last = config[name].class_path.rpartition(".")
    kind = getattr(importlib.import_module(module), last)
    if own is not None and "seed" in inspect.signature(kind).parameters:
        # A quasi-random sequence is one for all trials.
        config[name].init_args.seed = seed if issubclass(kind, QMCSampler) else own
    try:
        return parser.instantiate(config)[name]
    except (ValueError, TypeError, ImportError) as error:
        refuse(f"{name}: {given['class_path']}: {' '.join(str(error).split())}")


def rehearse(plan: Plan) -> None:
    """Draw a few points in memory: what a sampler misses (a package, another kind of space) is told before any fit.

    Raises:
        SystemExit: With one line, if it cannot draw.
    """
    study = optuna.create_study(direction=plan.direction)
    try:
        for value in range(REHEARSED):
            trial = study.ask()
            suggest(study, trial, plan)
            study.tell(trial, float(value))
    except ImportError as error:
        refuse(f"sampler: {plan.sampler['class_path']}: {error}. Install the package.")
    except (ValueError, RuntimeError) as error:  # one that ends the study by itself has it running
        refuse(f"sampler: {plan.sampler['class_path']}: {' '.join(str(error).split())}")


def suggest(study: optuna.Study, trial: Trial, plan: Plan) -> dict[str, Any]:
    """Draw a trial's point; what it drew before it was cut short stays.

    Returns:
        Of each option its value.
    """

    def begin(name: str) -> None:
        study.sampler = make_sampler(plan, trial.number, name)

    begin("")
    _ = trial.relative_params  # what the sampler draws for all at once, before any of them
    drawn: dict[str, Any] = {}
    for each in plan.read:
        drawn |= each.suggest(trial, begin)
    return drawn


def find_trial(study: optuna.Study, storage: BaseStorage, number: int) -> int:
    """The storage's number of a trial."""
    return storage.get_trial_id_from_study_id_trial_number(storage.get_study_id_from_name(study.study_name), number)


def is_open(trial: FrozenTrial) -> bool:
    """Whether it is still to be done, by this process or another."""
    return trial.state in (TrialState.WAITING, TrialState.RUNNING)
