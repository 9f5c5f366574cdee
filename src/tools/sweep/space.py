"""Read the space of a sweep: options by their own names, each with a range or with choices."""

import copy
import itertools
import json
import warnings
from dataclasses import dataclass
from typing import Any

from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import BaseTrial

from src.tools.common import refuse

FILES = "config"  # choices of this name are YAML files, or dicts with options
MAX_POINTS = 100_000


@dataclass
class Option:
    """A searched option.

    Attributes:
        name: As on the command line.
        key: Its name in the study. Below a choice it names the choice, since each may have another range.
        given: The range or the choices as the YAML gives them.
        distribution: Optuna's; the values of a choice are its labels.
        above: The choices that bring it along, labels by the keys of their options.
    """

    name: str
    key: str
    given: Any
    distribution: Any
    above: dict[str, Any]

    def belongs_to(self, params: dict[str, Any]) -> bool:
        """Return whether a trial with these parameters so far has this option."""
        return all(params.get(key) == choice for key, choice in self.above.items())


def read_space(given: Any, at: str = "space", above: dict[str, Any] | None = None) -> list[Option]:
    """Read a space: a range `{low, high, log, step}`, a list, or choices with a space each, by option.

    Args:
        given: As the YAML has it.
        at: Its place, for messages.
        above: The choices that bring it along.
    """
    if not isinstance(given, dict) or not given:
        refuse(f"{at}: expected options by their names, such as `model.optimizer.lr: {{low: 1e-4, high: 0.1}}`.")
    space = [option for name, value in given.items() for option in _read(str(name), value, above or {})]
    for one, other in itertools.combinations(space, 2):
        if one.name == other.name and all(one.above[key] == other.above[key] for key in one.above.keys() & other.above):
            refuse(f"{at}: {one.name} stands there more than once.")
    return space


def _read(name: str, given: Any, above: dict[str, Any]) -> list[Option]:
    key = f"{name} ({[*above.values()][-1]})" if above else name
    if isinstance(given, dict) and {"low", "high"} & given.keys():
        return [Option(name, key, given, _read_range(name, **given), above)]
    if not isinstance(given, list | dict) or not given:
        refuse(f"{name}: got {given!r}; give a range {{low: 1, high: 9}}, a list, or choices with a space for each.")
    labels = [label(value) for value in given]
    if double := [value for value in given if labels.count(label(value)) > 1]:
        refuse(f"{name}: {double[0]!r} and {double[1]!r} are one choice, not two: Python finds them equal.")
    space = [Option(name, key, given, CategoricalDistribution(labels), above)]
    for choice, below in given.items() if isinstance(given, dict) else ():
        space += read_space(below, f"{name}: {choice}", above | {key: choice}) if below else []
    return space


def _read_range(
    name: str, low: Any = None, high: Any = None, log: Any = False, step: Any = None, **other: Any
) -> FloatDistribution | IntDistribution:
    numbers = [low, high, *([] if step is None else [step])]
    if other or not all(type(each) in (int, float) for each in numbers) or not isinstance(log, bool):
        refuse(f"{name}: expected a range {{low: number, high: number}}, optionally with step: number and log: true.")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", UserWarning)  # a step that does not divide its range
            if all(isinstance(each, int) for each in numbers):
                return IntDistribution(low, high, log, step or 1)
            return FloatDistribution(low, high, log, step)
    except (ValueError, UserWarning) as error:
        refuse(f"{name}: low {low}, high {high}: {str(error).rstrip('.')}.".replace("`", ""))


def label(value: Any) -> Any:
    """Return what the study stores of a choice: itself, or the JSON text of a list or a dict."""
    return json.dumps(value) if isinstance(value, list | dict) else value


def draw(space: list[Option], trial: BaseTrial) -> None:
    """Let a trial draw each option; one that has drawn keeps its values."""
    for each in space:
        at = each.distribution
        if not each.belongs_to(trial.params):
            continue
        if isinstance(at, CategoricalDistribution):
            trial.suggest_categorical(each.key, at.choices)
        else:
            suggest: Any = trial.suggest_int if isinstance(at, IntDistribution) else trial.suggest_float
            suggest(each.key, at.low, at.high, step=at.step, log=at.log)


def by_name(params: dict[str, Any]) -> dict[str, Any]:
    """Return a trial's parameters by the names of the options."""
    return {key.partition(" (")[0]: value for key, value in params.items()}


def probes(space: list[Option]) -> list[dict[str, Any]]:
    """Return a few points, as parameters of trials, in which each bound and each choice occurs."""
    rows: list[dict[str, Any]] = [{}]
    for each in space:
        at, mine = each.distribution, [row for row in rows if each.belongs_to(row)]
        if isinstance(at, CategoricalDistribution):
            values = list(at.choices)
        else:
            values = [at.low, at.high, min(at.low + (at.step or (at.high - at.low) / 3), at.high)]
        more = [dict(row) for row in itertools.islice(itertools.cycle(mine), max(len(values) - len(mine), 0))]
        rows += more
        for row, value in zip(mine + more, itertools.cycle(values), strict=False):
            row[each.key] = value
    return rows


def points(space: list[Option]) -> list[dict[str, Any]]:
    """Return all points of a grid, as parameters of trials."""
    rows: list[dict[str, Any]] = [{}]
    for each in space:
        at = each.distribution
        if isinstance(at, CategoricalDistribution):
            values = list(at.choices)
        elif at.log or at.step is None:
            refuse(f"{each.name}: a grid needs a step, or a list of values, and no log.")
        else:
            values = [at.low + at.step * k for k in range(round((at.high - at.low) / at.step) + 1)]
        if len(rows) * len(values) > MAX_POINTS:
            refuse(f"the grid has more than {MAX_POINTS:,} points. Take wider steps, or another sampler.")
        rows = [
            row | more
            for row in rows
            for more in ([{each.key: value} for value in values] if each.belongs_to(row) else [{}])
        ]
    return rows


def fragment(values: dict[str, Any]) -> dict[str, Any]:
    """Turn options by their names into a config; the value of `config` is a dict with options."""
    values = copy.deepcopy(values)
    tree: dict[str, Any] = values.pop(FILES, {})
    for name in sorted(values, key=lambda name: (name.count("."), name)):  # a class before its arguments
        *above, last = [part for part in name.split(".") if part not in ("init_args", "class_path")]
        at = tree
        for part in above:
            child = at.get(part) or {}
            child = at[part] = child if isinstance(child, dict) else {"class_path": child}
            at = child.setdefault("init_args", {}) if "class_path" in child else child
        at[last] = values[name]
    return tree
