"""Read the space of a sweep: options by their own names, each with a range or with choices."""

import itertools
import json
import warnings
from dataclasses import dataclass
from typing import Any

from optuna.distributions import FloatDistribution, IntDistribution
from optuna.trial import BaseTrial

from src.tools.common import refuse

MAX_POINTS = 100_000


@dataclass
class Option:
    """A searched option.

    Attributes:
        name: As on the command line.
        key: Its name in the study. Below a choice it names the choice, since each may have another range.
        above: The choices that bring it along, by the keys of their options.
        choices: The value of each label, which is what the study stores: the value, or JSON text of a list or a dict.
        range: `low` and `high`, optionally `step` and `log`, as the YAML has them; empty for choices.
    """

    name: str
    key: str
    above: dict[str, Any]
    choices: dict[Any, Any]
    range: dict[str, Any]

    @property
    def is_whole(self) -> bool:
        """Return whether this is a range of whole numbers."""
        return bool(self.range) and all(isinstance(value, int) for value in self.range.values())

    def belongs_to(self, params: dict[str, Any]) -> bool:
        """Return whether a trial with these parameters so far has this option."""
        return all(params.get(key) == choice for key, choice in self.above.items())

    def draw(self, trial: BaseTrial) -> None:
        """Let a trial draw a value; one that has drawn keeps it."""
        if self.choices:
            trial.suggest_categorical(self.key, list(self.choices))
        else:
            (trial.suggest_int if self.is_whole else trial.suggest_float)(self.key, **self.range)


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
        option = Option(name, key, above, {}, given)
        try:
            with warnings.catch_warnings(action="error"):  # a step that does not divide its range
                (IntDistribution if option.is_whole else FloatDistribution)(**given)
        except (ValueError, TypeError, UserWarning) as error:
            refuse(f"{name}: {given} is no range of numbers low and high, optionally with step or log: {error}")
        return [option]
    if not isinstance(given, list | dict) or not given:
        refuse(f"{name}: got {given!r}; give a range {{low: 1, high: 9}}, a list, or choices with a space for each.")
    choices = {json.dumps(value) if isinstance(value, list | dict) else value: value for value in given}
    if len(choices) < len(given):
        refuse(f"{name}: two of {', '.join(map(repr, given))} are one choice: Python finds 1, 1.0 and True equal.")
    space = [Option(name, key, above, choices, {})]
    for choice, below in given.items() if isinstance(given, dict) else ():
        space += read_space(below, f"{name}: {choice}", above | {key: choice}) if below else []
    return space


def probes(space: list[Option]) -> list[dict[str, Any]]:
    """Return a few points, as parameters of trials, in which each bound and each choice occurs."""
    rows: list[dict[str, Any]] = [{}]
    for each in space:
        values, mine = list(each.choices), [row for row in rows if each.belongs_to(row)]
        if each.range:
            low, high = each.range["low"], each.range["high"]
            values = [low, high, min(low + each.range.get("step", 1 if each.is_whole else (high - low) / 3), high)]
        more = [dict(row) for row in itertools.islice(itertools.cycle(mine), max(len(values) - len(mine), 0))]
        rows += more
        for row, value in zip(mine + more, itertools.cycle(values), strict=False):
            row[each.key] = value
    return rows


def points(space: list[Option]) -> list[dict[str, Any]]:
    """Return all points of a grid, as parameters of trials."""
    rows: list[dict[str, Any]] = [{}]
    for each in space:
        values = list(each.choices)
        if each.range:
            if each.range.get("log") or "step" not in each.range:
                refuse(f"{each.name}: a grid needs a step, or a list of values, and no log.")
            low, high, step = (each.range[name] for name in ("low", "high", "step"))
            values = [low + step * k for k in range(round((high - low) / step) + 1)]
        if len(rows) * len(values) > MAX_POINTS:
            refuse(f"the grid has more than {MAX_POINTS:,} points. Take wider steps, or another sampler.")
        mine = [row for row in rows if each.belongs_to(row)]
        rows = [row for row in rows if row not in mine] + [row | {each.key: value} for row in mine for value in values]
    return rows
