"""What is searched: options by their own names, each with a range or with choices."""

import itertools
import json
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, NoReturn

from optuna.distributions import FloatDistribution, IntDistribution
from optuna.trial import BaseTrial

RANGE = {"low", "high", "log", "step"}
MOST_POINTS = 100_000
Begin = Callable[[str], None]  # called with the key of what is drawn next


def refuse(text: str) -> NoReturn:
    """End with one line; nothing was started."""
    raise SystemExit(f"error: {text}")


@dataclass
class Range:
    """Numbers between two bounds, both included; whole numbers where the bounds (and the step) are.

    Attributes:
        name: The option.
        key: Its name in the study; below a choice it says which, since each may have another range.
        distribution: Optuna's.
    """

    name: str
    key: str
    distribution: FloatDistribution | IntDistribution

    @property
    def is_whole(self) -> bool:
        """Whether it gives whole numbers."""
        return isinstance(self.distribution, IntDistribution)

    def suggest(self, trial: BaseTrial, begin: Begin) -> dict[str, Any]:
        """Let a trial draw a value."""
        begin(self.key)
        at = self.distribution
        if isinstance(at, IntDistribution):
            return {self.name: trial.suggest_int(self.key, at.low, at.high, step=at.step, log=at.log)}
        return {self.name: trial.suggest_float(self.key, at.low, at.high, step=at.step, log=at.log)}

    def probes(self) -> list[dict[str, Any]]:
        """Values that say whether the option takes all of them: the ends, and one between."""
        at = self.distribution
        between = at.low + (at.step or (at.high - at.low) / 3)
        return [{self.name: value} for value in (at.low, at.high, *([between] if between < at.high else []))]

    def points(self) -> Iterator[dict[str, Any]]:
        """Each value, for a grid."""
        at = self.distribution
        if at.log or at.step is None:
            refuse(f"{self.name}: a grid needs a step, or a list of values, and no log.")
        number = round((at.high - at.low) / at.step)
        yield from ({self.key: at.low + at.step * k} for k in range(number + 1))


@dataclass
class Choices:
    """Values to choose from, each with a space of its own that counts only where it is chosen.

    Attributes:
        name: The option.
        key: Its name in the study.
        values: Each value, by what the study keeps of it.
        below: The space of each, by the same.
    """

    name: str
    key: str
    values: dict[Any, Any]
    below: dict[Any, "list[Range | Choices]"] = field(default_factory=dict)

    def suggest(self, trial: BaseTrial, begin: Begin) -> dict[str, Any]:
        """Let a trial choose, and draw what the choice brings along."""
        begin(self.key)
        label = trial.suggest_categorical(self.key, tuple(self.values))
        drawn = {self.name: self.values[label]}
        for each in self.below.get(label, []):
            drawn |= each.suggest(trial, begin)
        return drawn

    def probes(self) -> list[dict[str, Any]]:
        """Each choice with all that it brings along."""
        return [
            {self.name: value} | rest for label, value in self.values.items() for rest in probes(self.below.get(label))
        ]

    def points(self) -> Iterator[dict[str, Any]]:
        """Each choice with each point of the space that it brings along."""
        for label in self.values:
            yield from ({self.key: label} | rest for rest in points(self.below.get(label)))


Space = list[Range | Choices]


def read_space(given: Any, at: str = "space", branch: str = "") -> Space:
    """The space of a YAML.

    Args:
        given: A dict: of an option's name its range `{low, high, log, step}`, its choices as a list, or as a dict that
            gives each choice a space of its own.
        at: Where it stands, for the message.
        branch: The choice that brings it along.
    """
    if not isinstance(given, dict) or not given:
        refuse(f"{at}: expected options by their names, such as `model.optimizer.lr: {{low: 1e-4, high: 0.1}}`.")
    space = [_read(str(name), value, branch) for name, value in given.items()]
    names = [name for each in space for name in all_names(each)]
    if double := {name for name in names if names.count(name) > 1}:
        refuse(f"{at}: {', '.join(sorted(double))} stands there more than once.")
    return space


def _read(name: str, given: Any, branch: str) -> Range | Choices:
    key = f"{name} ({branch})" if branch else name
    if isinstance(given, dict) and {"low", "high"} & given.keys():
        return Range(name, key, _read_range(name, given))
    if isinstance(given, list) and given:
        values = {label(value): value for value in given}
        if len(values) < len(given):
            same = next(value for value in given if [label(each) for each in given].count(label(value)) > 1)
            alike = " and ".join(repr(value) for value in given if label(value) == label(same))
            refuse(f"{name}: {alike} are one choice, not several: Python finds them equal. Leave all but one out.")
        return Choices(name, key, values)
    if isinstance(given, dict) and given:
        below = {value: read_space(rest, f"{name}: {value}", str(value)) for value, rest in given.items() if rest}
        return Choices(name, key, {value: value for value in given}, below)
    refuse(f"{name}: expected a range {{low: 1, high: 9}}, a list of choices, or choices with a space each.")


def _read_range(name: str, given: dict[str, Any]) -> FloatDistribution | IntDistribution:
    low, high, log, step = (given.get(key) for key in ("low", "high", "log", "step"))
    wrong = [f"{key}: {value!r}" for key, value in given.items() if key not in RANGE]
    wrong += [f"{key}: {given.get(key)!r} is no number" for key in ("low", "high") if not is_number(given.get(key))]
    wrong += [f"step: {step!r} is no number"] if step is not None and not is_number(step) else []
    wrong += [f"log: {log!r} is neither true nor false"] if log not in (None, True, False) else []
    if wrong:
        refuse(f"{name}: {', '.join(wrong)}. A range takes low and high, both numbers, and if you like log and step.")
    whole = all(isinstance(value, int) for value in (low, high, *([] if step is None else [step])))
    try:
        with warnings.catch_warnings():
            # Optuna warns at each reading of a step that does not divide the range: the sweep says it once.
            warnings.simplefilter("ignore", UserWarning)
            if whole:
                return IntDistribution(low, high, bool(log), step or 1)  # type: ignore[arg-type]  # numbers, see above
            return FloatDistribution(low, high, bool(log), step)  # type: ignore[arg-type]
    except ValueError as error:
        refuse(f"{name}: low {low}, high {high}: {str(error).rstrip('.')}.".replace("`", ""))


def short_of_the_bound(space: Space, given: dict[str, Any]) -> Iterator[tuple[Range, float]]:
    """Each range whose step leaves out its upper bound, and that bound."""
    for each in space:
        value = given[each.name]
        if isinstance(each, Range) and each.distribution.high != value["high"]:
            yield each, value["high"]
        for choice, below in getattr(each, "below", {}).items():
            yield from short_of_the_bound(below, value[choice])


def is_number(value: Any) -> bool:
    """Whether YAML gave a number."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def label(value: Any) -> Any:
    """What stands for a choice in the study: itself, of a list or a dict its text."""
    return json.dumps(value) if isinstance(value, list | dict) else value


def all_names(each: Range | Choices) -> list[str]:
    """Its option, and those that its choices bring along; what two choices bring counts once."""
    below = {name: None for rest in getattr(each, "below", {}).values() for part in rest for name in all_names(part)}
    return [each.name, *below]


def probes(space: Space | None) -> list[dict[str, Any]]:
    """A few points in which each bound and each choice is there at least once."""
    columns = [each.probes() for each in space or []]
    rows = range(max((len(column) for column in columns), default=1))
    return [{k: v for column in columns for k, v in column[row % len(column)].items()} for row in rows]


def points(space: Space | None) -> list[dict[str, Any]]:
    """All points of a grid, by the labels of their choices."""
    found = itertools.product(*(list(each.points()) for each in space or []))
    rows = list(itertools.islice(found, MOST_POINTS + 1))
    if len(rows) > MOST_POINTS:
        refuse(f"the grid has more than {MOST_POINTS:,} points. Take wider steps, or another sampler.")
    return [{name: value for part in row for name, value in part.items()} for row in rows]
