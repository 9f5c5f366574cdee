"""Plan a sweep: read from a YAML and the command line, checked before a folder is made, kept in the folder."""

import argparse
import contextlib
import json
import re
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import yaml
from jsonargparse import ArgumentParser
from jsonargparse.typing import PositiveInt
from optuna.pruners import BasePruner
from optuna.samplers import BaseSampler, GridSampler
from optuna.trial import BaseTrial

from src.cli import as_yaml
from src.tools.common import refuse, write
from src.tools.common.fits import claim, compose_base, composed, load
from src.tools.sweep.space import Option, points, probes, read_space

FILE = "sweep.yaml"
FILES = "config"  # choices of this name are YAML files, or dicts with options
NUM_TRIALS = 20
OWN = ("test_after_fit", "trainer.devices", "checkpoint.monitor", "checkpoint.mode")  # set by a sweep itself
# The keys of `--sweep`.
SETTINGS = ArgumentParser(exit_on_error=False)
SETTINGS.add_argument("--space", type=dict)
SETTINGS.add_argument("--metric", type=str)
SETTINGS.add_argument("--direction", type=Literal["minimize", "maximize"])
SAMPLER: Any = {"skip": {"search_space"}, "default": {"class_path": "optuna.samplers.TPESampler"}}
SETTINGS.add_subclass_arguments(BaseSampler, "sampler", **SAMPLER)
SETTINGS.add_argument("--pruner", type=BasePruner, default={"class_path": "optuna.pruners.NopPruner"})
SETTINGS.add_argument("--trials", type=PositiveInt)
GRIDS = ("BruteForceSampler", "GridSampler")  # their points are those of the space
MAKERS: Any = [(lambda cls, **given: cls({}, **given), GridSampler, False)]  # Optuna wants its space a second time


@dataclass
class Sweep:
    """All that decides what the trials are, and where they lie.

    Attributes:
        plan: `space` as the YAML has it, the texts of its `files`, `metric`, `direction`, `sampler`, `pruner`, and
            `storage`, the database that several machines share. It stays the same as long as the sweep lives.
        base: The config of all trials; a trial's options come on top, and references are resolved after them.
        trials: How many there are to be.
        folder: Where everything lies.
    """

    plan: dict[str, Any]
    base: dict[str, Any]
    trials: int = NUM_TRIALS
    folder: Path = Path()

    @cached_property
    def space(self) -> list[Option]:
        """Return the searched options."""
        return read_space(self.plan["space"])

    @cached_property
    def grid(self) -> list[dict[str, Any]]:
        """Return all points of a grid; none for another sampler."""
        return points(self.space) if self.plan["sampler"]["class_path"].endswith(GRIDS) else []

    def values(self, params: dict[str, Any]) -> dict[str, Any]:
        """Return a trial's parameters by the names of the options."""
        drawn = [(each, params[each.key]) for each in self.space if each.key in params]
        return {each.name: each.choices.get(value, value) for each, value in drawn}

    def options(self, params: dict[str, Any]) -> list[str]:
        """Return the options of a trial: a config for each, since those have types, a class before its arguments."""
        words = []
        for name, value in sorted(self.values(params).items(), key=lambda each: each[0].count(".")):
            for part in [] if name == FILES else reversed(name.split(".")):
                value = {part: value}
            text = self.plan["files"][value] if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
            words.append(f"--config={text}")
        return words

    def run(self, trial: BaseTrial) -> Path:
        """Return the folder of a trial's run."""
        return self.folder / str(trial.user_attrs["folder"])

    def save(self) -> None:
        """Write `sweep.yaml`."""
        text = yaml.safe_dump(self.plan | {"trials": int(self.trials)}, sort_keys=False, allow_unicode=True)
        write(self.folder / FILE, text)


def read_sweep(folder: Path) -> Sweep:
    """Read the sweep that lies in a folder."""
    plan, base = load(folder, FILE)
    return Sweep(plan, base, plan.pop("trials"), folder)


def begin(own: argparse.Namespace, options: list[str]) -> Sweep:
    """Read and check the YAML, the options, and each bound and choice; make the sweep's folder."""
    if own.storage and re.search("://[^/]*:[^/]*@", own.storage):
        refuse("--storage: leave out the password, the folder keeps the address. PostgreSQL reads ~/.pgpass.")
    try:
        given = SETTINGS.parse_path(own.sweep)
        SETTINGS.instantiate(given, instantiators=MAKERS)
    except Exception as error:  # jsonargparse's, or a class's own
        refuse(f"--sweep {own.sweep}: {' '.join(str(error).split())}; configs/sweep/mnist.yaml explains the keys")
    plan = yaml.safe_load(SETTINGS.dump(given))
    space = read_space(given.space)
    own_names = {*OWN, *(word.lstrip("-").partition("=")[0] for word in options)}
    if taken := [each.name for each in space if each.name.replace(".init_args", "") in own_names]:
        refuse(f"{taken[0]} is in the space, and also an option, or what a sweep sets itself. Leave out one of them.")
    base, root = compose_base(own.config, options, set())
    monitor, mode = base["checkpoint"]["monitor"], base["checkpoint"]["mode"]
    metric = given.metric or monitor
    better = f"{mode}imize" if metric == monitor and mode else "minimize" if "loss" in str(metric) else None
    if not (direction := given.direction or better):
        refuse(f"direction: say in --sweep whether {metric} is better by minimize or maximize.")
    base["test_after_fit"] = False
    base["checkpoint"] |= {"monitor": metric, "mode": direction[:3]}
    files = {file for each in space if each.name == FILES for file in each.choices.values() if isinstance(file, str)}
    plan |= {"files": {file: _read(file) for file in sorted(files)}}
    plan |= {"metric": metric, "direction": direction, "storage": own.storage}
    sweep = Sweep(plan, base)
    check(sweep)
    usual = len(sweep.grid) or NUM_TRIALS  # before there is a folder: a grid may be refused
    sweep.trials = given.trials or usual
    sweep.folder = claim(root, "sweep", base)
    return sweep


def _read(path: str) -> str:
    try:
        return Path(path).expanduser().read_text(encoding="utf-8-sig") + "\n"  # --config takes a line for a name
    except OSError as error:
        refuse(f"config: {path}: {error.strerror}.")


def check(sweep: Sweep) -> None:
    """Let the parser read each bound and each choice.

    A range between whole numbers gets fractions where the option takes them: `{low: 0, high: 1}` of a rate.
    """
    base = ["--config", as_yaml(sweep.base)]
    for point in probes(sweep.space):
        composed([*base, *sweep.options(point)])
    for each in sweep.space:
        if each.is_whole and "step" not in each.range:
            with contextlib.suppress(SystemExit):
                composed([*base, *sweep.options(each.above | {each.key: each.range["low"] + 0.5})])
                each.range |= {name: float(each.range[name]) for name in ("low", "high")}


def make(kind: str, plan: dict[str, Any], seed: int | None = None) -> Any:
    """Instantiate the `sampler` or the `pruner`, with a seed if it takes one."""
    config = SETTINGS.parse_object({kind: plan[kind]})
    if "seed" in (arguments := config[kind].get("init_args", {})):
        arguments["seed"] = seed
    return SETTINGS.instantiate(config, instantiators=MAKERS)[kind]
