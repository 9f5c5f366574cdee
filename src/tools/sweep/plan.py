"""Plan a sweep: read from a YAML and the command line, checked before a folder is made, kept in the folder."""

import argparse
import contextlib
import re
import sys
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml
from jsonargparse import ArgumentParser, get_loader
from optuna.distributions import FloatDistribution, IntDistribution
from optuna.pruners import BasePruner
from optuna.samplers import BaseSampler

from src.tools.common import claim, refuse, write
from src.tools.common.fits import BASE, as_yaml, compose_base, composed, load
from src.tools.sweep.space import FILES, Option, by_name, fragment, label, points, probes, read_space

FILE = "sweep.yaml"
KEYS = ("space", "metric", "direction", "sampler", "pruner", "trials")
NUM_TRIALS = 20
OWN = ("test_after_fit", "trainer.devices", "checkpoint.monitor", "checkpoint.mode")  # set by a sweep itself
GRIDS = ("GridSampler", "BruteForceSampler")


@dataclass
class Sweep:
    """All that decides what the trials are, and where they lie.

    Attributes:
        plan: `space` as the YAML has it, the options of its `files`, `metric`, `direction`, `sampler`, `pruner`, and
            `storage`, the database that several machines share. It stays the same as long as the sweep lives.
        base: The composed config of all trials; a trial's point is applied on top.
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

    def point(self, params: dict[str, Any]) -> dict[str, Any]:
        """Return the config of a trial's parameters."""
        choices = {
            (each.name, label(value)): value
            for each in self.space
            for value in each.given
            if isinstance(value, list | dict)
        }
        choices |= {(FILES, file): options for file, options in self.plan["files"].items()}
        return fragment({name: choices.get((name, value), value) for name, value in by_name(params).items()})

    def save(self) -> None:
        """Write `base.yaml` once, and `sweep.yaml`."""
        if not (self.folder / BASE).is_file():
            write(self.folder / BASE, as_yaml(self.base))
        write(self.folder / FILE, as_yaml(self.plan | {"trials": self.trials}))


def read_sweep(folder: Path, trials: int | None = None) -> Sweep:
    """Read the sweep that lies in a folder; it may get more trials."""
    plan, base = load(folder, FILE)
    sweep = Sweep(plan, base, plan.pop("trials"), folder)
    sweep.trials = min(trials or sweep.trials, len(sweep.grid) or sys.maxsize)
    return sweep


def begin(own: argparse.Namespace, options: list[str]) -> Sweep:
    """Read and check the YAML, the options, and each bound and choice; make the sweep's folder."""
    if own.storage and re.search("://[^/]*:[^/]*@", own.storage):
        refuse("--storage: leave out the password, the folder keeps the address. PostgreSQL reads ~/.pgpass.")
    given = _read(f"--sweep {own.sweep}", own.sweep)
    if unknown := [*(given.keys() - set(KEYS)), *({"space"} - given.keys())]:
        refuse(f"--sweep {own.sweep}: expected `space` and optionally {', '.join(KEYS[1:])}; see {', '.join(unknown)}.")
    trials = own.trials or given.get("trials")
    if trials is not None and (type(trials) is not int or trials < 1):
        refuse(f"trials: {trials} must be a number of trials, at least 1.")
    space = read_space(given["space"])
    own_names = {*OWN, *(word.lstrip("-").partition("=")[0] for word in options)}
    if taken := [each.name for each in space if each.name.replace(".init_args", "") in own_names]:
        refuse(f"{taken[0]} is in the space, and also an option, or what a sweep sets itself. Leave out one of them.")
    base, root = compose_base(own.config, options, set())
    monitor, mode = base["checkpoint"]["monitor"], base["checkpoint"]["mode"]
    metric = given.get("metric") or monitor
    usual = f"{mode}imize" if metric == monitor and mode else "minimize" if "loss" in metric else None
    direction = given.get("direction") or usual
    if direction not in ("minimize", "maximize"):
        refuse(f"direction: {direction} must be minimize or maximize. Say in --sweep which {metric} is better.")
    base["test_after_fit"] = False
    base["checkpoint"] |= {"monitor": metric, "mode": direction[:3]}
    files = {file for each in space if each.name == FILES for file in each.given if isinstance(file, str)}
    plan = {"space": given["space"], "files": {file: _read(f"config: {file}", file) for file in sorted(files)}}
    plan |= {"metric": metric, "direction": direction, "storage": own.storage}
    for key, base_class, default in (("sampler", BaseSampler, "TPESampler"), ("pruner", BasePruner, "NopPruner")):
        kind = given.get(key) or f"optuna.{key}s.{default}"
        kind = {"class_path": kind} if isinstance(kind, str) else kind
        plan[key] = {name: value for name, value in kind.items() if value is not None}  # init_args, left empty
        if not str(plan[key].get("class_path")).endswith(GRIDS):
            make(base_class, plan[key])
    sweep = Sweep(plan, base)
    _check(sweep)
    sweep.trials = min(trials or len(sweep.grid) or NUM_TRIALS, len(sweep.grid) or sys.maxsize)
    sweep.folder = claim(root, "sweep")
    return sweep


def _read(name: str, path: str) -> dict[str, Any]:
    try:
        found = get_loader("yaml")(Path(path).expanduser().read_text(encoding="utf-8-sig"))
    except OSError as error:
        refuse(f"{name}: {error.strerror}.")
    except yaml.YAMLError as error:
        refuse(f"{name}: this is no YAML: {' '.join(str(error).split())}.")
    if not isinstance(found, dict) or FILES in found:
        refuse(f"{name}: expected a YAML with options, without a `config` of its own.")
    return found


def _check(sweep: Sweep) -> None:
    """Let the parser read each bound and each choice.

    A range between whole numbers gets fractions where the option takes them: `{low: 0, high: 1}` of a rate.
    """

    def read(params: dict[str, Any]) -> None:
        texts = [as_yaml(tree, width=1_000_000, default_flow_style=True) for tree in (sweep.base, sweep.point(params))]
        composed([word for text in texts for word in ("--config", text)])

    for point in probes(sweep.space):
        read(point)
    for each in sweep.space:
        at = each.distribution
        if isinstance(at, IntDistribution) and "step" not in each.given:
            with contextlib.suppress(SystemExit):
                read(each.above | {each.key: at.low + 0.5})
                each.given |= {"low": float(at.low), "high": float(at.high)}
                each.distribution = FloatDistribution(at.low, at.high, at.log)


def make(base: type, given: dict[str, Any], seed: int | None = None) -> Any:
    """Instantiate a sampler or a pruner, with a seed if it takes one."""
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--value", type=base)
    try:
        config = parser.parse_object({"value": given})
        if "seed" in config.value.get("init_args", {}):
            config.value.init_args.seed = seed
        return parser.instantiate(config).value
    except Exception as error:  # jsonargparse's, or the class's own
        reason = " ".join(str(error).split()).replace('"value": ', "").removeprefix("Parser key ")
        refuse(f"{base.__name__.removeprefix('Base').lower()}: {given.get('class_path')}: {reason}")
