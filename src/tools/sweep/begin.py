"""A sweep begins or goes on: everything is checked before a folder is made."""

import argparse
import re
from pathlib import Path
from typing import Any, Literal

from optuna.trial import TrialState

from src.tools.sweep.check import printed, settle_space, under_the_space
from src.tools.sweep.folder import FILE, Sweep, claim, load
from src.tools.sweep.kept import CONFIG, configs, edited, keep
from src.tools.sweep.plan import SAMPLER, Plan, read_sweep
from src.tools.sweep.space import points, refuse
from src.tools.sweep.study import be_quiet, make_pruner, open_storage, open_study, rehearse

TRIALS = 20


def begin(own: argparse.Namespace, options: list[str]) -> Sweep:
    """The sweep that a command line asks for, with its study.

    Args:
        own: Its own options.
        options: Those of fit.

    Raises:
        SystemExit: With one line, if something is wrong.
    """
    if own.storage and re.search("://[^/]*:[^/]*@", own.storage):
        refuse("--storage: leave out the password, the address is written into the folder. PostgreSQL reads PGPASSWORD "
               "or ~/.pgpass.")  # fmt: skip
    sweep = _go_on(own, options) if own.sweep is None else _new(own, options)
    trials = open_study(sweep, open_storage(sweep)).get_trials(deepcopy=False)
    begun = max((trial.number + 1 for trial in trials if trial.state != TrialState.WAITING), default=0)
    if sweep.trials < begun:
        refuse(f"--trials {sweep.trials}: {begun} have begun in {sweep.folder}. Name at least as many.")
    if not (sweep.folder / FILE).is_file():
        keep(sweep)
    sweep.save()
    return sweep


def _go_on(own: argparse.Namespace, options: list[str]) -> Sweep:
    if options:
        refuse(f"{' '.join(options)}: a sweep goes on with the options that it began with. Leave them out.")
    sweep = load(own.resume)
    sweep.trials = own.trials or sweep.trials
    sweep.storage = own.storage or sweep.storage
    if sweep.plan.is_grid:
        sweep.trials = min(sweep.trials, len(points(sweep.plan.read)))
    return sweep


def _new(own: argparse.Namespace, options: list[str]) -> Sweep:
    given = read_sweep(own.sweep)
    if any(word.partition("=")[0] == "--ckpt_path" for word in options):
        refuse("--ckpt_path: each trial begins anew. To begin from weights: --transfer.weights.")
    if not any(word.partition("=")[0] in CONFIG for word in options):
        refuse("name the YAML of an experiment first, --config configs/<name>.yaml.")
    if any(word.startswith("--print_config") for word in options):
        refuse("--print_config: a sweep has no config of its own. Ask for it with `fit` in place of `sweep`.")
    options = under_the_space(given["space"], options)
    config = printed(options)
    _refuse_what_no_trial_can(config)
    metric = given.get("metric") or config["checkpoint"]["monitor"]
    plan = Plan(
        settle_space(given["space"], options, config),
        metric,
        given.get("direction") or _direction(metric, config["checkpoint"]),
        given.get("sampler") or SAMPLER,
        given.get("pruner"),
        options,
    )
    be_quiet()
    make_pruner(plan)
    most = len(points(plan.read)) if plan.is_grid else None
    if most is None:
        rehearse(plan)
    trials = _at_most(own.trials or given.get("trials") or most or TRIALS, most)
    if own.storage and "://" in own.storage:
        open_storage(
            Sweep(Path(), plan, trials, own.storage)
        )  # a database that nobody reaches, before a folder is made
    folder = own.resume
    if folder and (folder / FILE).is_file():
        known = load(folder)
        if found := plan.differences(vars(known.plan)):
            refuse(f"{folder} is another sweep: {'; '.join(found)}. Leave out --sweep, or begin a new one.")
        sweep = Sweep(folder, plan, _at_most(own.trials or known.trials, most), own.storage or known.storage)
        if found := edited(sweep):
            refuse(f"{', '.join(found)}: edited since {folder} began; the trials would differ. Begin a new one, or "
                   "leave out --sweep and the options: it goes on with its copies.")  # fmt: skip
        return sweep
    if folder:
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            refuse(f"--resume {folder}: cannot make this folder: {error.strerror}. Name another.")
    else:
        experiment = config.get("experiment") or Path(configs(options)[0]).stem
        folder = claim(Path(config["trainer"]["default_root_dir"] or ".").expanduser() / experiment)
    return Sweep(folder, plan, trials, own.storage or "sqlite")


def _at_most(trials: int, most: int | None) -> int:
    return trials if most is None else min(trials, most)


def _direction(metric: str, checkpoint: dict[str, Any]) -> Literal["minimize", "maximize"]:
    if metric == checkpoint["monitor"] and checkpoint["mode"]:
        return "minimize" if checkpoint["mode"] == "min" else "maximize"
    if "loss" not in metric:
        refuse(f"{metric}: is a larger one better? Say `direction: maximize` (or minimize) in the sweep's YAML.")
    return "minimize"


def _refuse_what_no_trial_can(config: dict[str, Any]) -> None:
    trainer = config["trainer"]
    if trainer["devices"] not in ("auto", 1, "1") or trainer["num_nodes"] != 1:
        refuse(f"trainer.devices={trainer['devices']}, num_nodes={trainer['num_nodes']}: a trial runs on one device. "
               "Use all by --workers; choose some by CUDA_VISIBLE_DEVICES.")  # fmt: skip
    if trainer["enable_checkpointing"] is False or trainer["barebones"]:
        refuse("trainer.enable_checkpointing, barebones: trials are compared and resumed by their checkpoints.")
    if trainer["fast_dev_run"]:
        refuse("trainer.fast_dev_run: it leaves no checkpoints, by which trials are compared and resumed.")
