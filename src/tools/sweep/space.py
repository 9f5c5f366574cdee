"""Read the space of a sweep: options by their own names, each with a range or with choices."""

import copy
import itertools
import json
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
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
        below: The space that a choice brings along, by its label.
    """

    name: str
    key: str
    given: Any
    distribution: IntDistribution | FloatDistribution | CategoricalDistribution
    below: dict[Any, "list[Option]"] = field(default_factory=dict)


Space = list[Option]


def read_space(given: Any, at: str = "space", branch: str = "") -> Space:
    """Read a space: a range `{low, high, log, step}`, a list, or choices with a space each, by option.

    Args:
        given: As the YAML has it.
        at: Its place, for messages.
        branch: The choice that brings it along.
    """
    if not isinstance(given, dict) or not given:
        refuse(f"{at}: expected options by their names, such as `model.optimizer.lr: {{low: 1e-4, high: 0.1}}`.")
    space = [_read(str(name), value, branch) for name, value in given.items()]
    names = [name for each in space for name in {option.name for option, _ in walk([each])}]
    if double := {name for name in names if names.count(name) > 1}:
        refuse(f"{at}: {', '.join(sorted(double))} stands there more than once.")
    return space


def _read(name: str, given: Any, branch: str) -> Option:
    key = f"{name} ({branch})" if branch else name
    if isinstance(given, dict) and {"low", "high"} & given.keys():
        return Option(name, key, given, _read_range(name, **given))
    if not isinstance(given, list | dict) or not given:
        refuse(f"{name}: got {given!r}; give a range {{low: 1, high: 9}}, a list, or choices with a space for each.")
    labels, below = [label(value) for value in given], {}
    if double := [value for value in given if labels.count(label(value)) > 1]:
        refuse(f"{name}: {double[0]!r} and {double[1]!r} are one choice, not two: Python finds them equal.")
    if isinstance(given, dict):
        below = {value: read_space(rest, f"{name}: {value}", str(value)) for value, rest in given.items() if rest}
    return Option(name, key, given, CategoricalDistribution(labels), below)


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


def walk(space: Space, above: dict[str, Any] | None = None) -> Iterator[tuple[Option, dict[str, Any]]]:
    """Yield each option, each with the choices that bring it along."""
    for each in space:
        yield each, above or {}
        for choice, below in each.below.items():
            yield from walk(below, {**(above or {}), each.name: choice})


def draw(space: Space, trial: BaseTrial) -> None:
    """Let a trial draw each option; one that has drawn keeps its values."""
    for each in space:
        at = each.distribution
        if isinstance(at, CategoricalDistribution):
            draw(each.below.get(trial.suggest_categorical(each.key, at.choices), []), trial)
        elif isinstance(at, IntDistribution):
            trial.suggest_int(each.key, at.low, at.high, step=at.step, log=at.log)
        else:
            trial.suggest_float(each.key, at.low, at.high, step=at.step, log=at.log)


def by_name(params: dict[str, Any]) -> dict[str, Any]:
    """Return a trial's parameters by the names of the options."""
    return {key.partition(" (")[0]: value for key, value in params.items()}


def probes(space: Space) -> list[dict[str, Any]]:
    """Return a few points in which each bound and each choice occurs."""

    def bounds(each: Option) -> list[Any]:
        at: Any = each.distribution
        return list(dict.fromkeys((at.low, at.high, min(at.low + (at.step or (at.high - at.low) / 3), at.high))))

    columns = [_column(each, bounds, probes) for each in space]
    rows = range(max(map(len, columns), default=1))
    return [{k: v for column in columns for k, v in column[row % len(column)].items()} for row in rows]


def points(space: Space) -> list[dict[str, Any]]:
    """Return all points of a grid."""

    def steps(each: Option) -> list[Any]:
        at: Any = each.distribution
        if at.log or at.step is None:
            refuse(f"{each.name}: a grid needs a step, or a list of values, and no log.")
        return [at.low + at.step * k for k in range(round((at.high - at.low) / at.step) + 1)]

    columns = [_column(each, steps, points) for each in space]
    rows = list(itertools.islice(itertools.product(*columns), MAX_POINTS + 1))
    if len(rows) > MAX_POINTS:
        refuse(f"the grid has more than {MAX_POINTS:,} points. Take wider steps, or another sampler.")
    return [{key: value for part in row for key, value in part.items()} for row in rows]


def _column(
    each: Option, values: Callable[[Option], list[Any]], rest: Callable[[Space], list[dict[str, Any]]]
) -> list[dict[str, Any]]:
    """Return an option's values, each choice with all points of the space that it brings along."""
    at = each.distribution
    if not isinstance(at, CategoricalDistribution):
        return [{each.key: value} for value in values(each)]
    return [{each.key: choice} | row for choice in at.choices for row in rest(each.below.get(choice, []))]


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
