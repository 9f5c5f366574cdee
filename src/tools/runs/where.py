"""Which runs, and in which order: `--where "test/acc > 0.98"`, `--sort=-test/acc`."""

import math
import operator
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from src.tools.runs.read import Row

COMPARE: dict[str, Callable[[Any, Any], bool]] = {
    ">=": operator.ge,
    "<=": operator.le,
    "!=": operator.ne,
    "==": operator.eq,
    ">": operator.gt,
    "<": operator.lt,
    "=": operator.eq,
    "~": lambda value, text: str(text).lower() in str(value).lower(),
}
CONDITION = re.compile(rf"\s*(.+?)\s*({'|'.join(map(re.escape, COMPARE))})\s*(.*?)\s*")


@dataclass
class Condition:
    """A column, a comparison and a value.

    Args:
        text: As it was given.
    """

    text: str

    def __post_init__(self) -> None:
        found = CONDITION.fullmatch(self.text)
        if not found:
            sys.exit(
                f"error: --where {self.text!r} is no condition. Write a column, one of {' '.join(COMPARE)} (~ is "
                "'contains') and a value: --where \"test/acc > 0.98\""
            )
        self.column, self.sign, value = found.groups()
        self.value: Any = value[1:-1] if len(value) > 1 and value[0] == value[-1] and value[0] in "'\"" else value

    def holds(self, row: Row) -> bool:
        """Whether a run is meant; one that has no such value is not, but for `!=`."""
        value = row.get(self.column)
        if value is None:
            return self.sign == "!="
        if isinstance(value, bool):  # YAML's true and false
            return COMPARE[self.sign](str(value).lower(), self.value.lower())
        if self.sign == "~" or not isinstance(value, int | float):
            return COMPARE[self.sign](str(value), self.value)
        try:
            return COMPARE[self.sign](value, float(self.value))
        except ValueError:
            if self.sign in ("=", "==", "!="):  # another run has a text there: precision 32 and bf16-mixed
                return self.sign == "!="
            sys.exit(f"error: --where {self.text!r}: {self.column} holds numbers, {self.value!r} is none.")


def ordered(rows: list[Row], keys: list[str]) -> list[Row]:
    """Sorted by columns, the first one first; `-` before a name turns it round. Runs without the value come last."""
    for key in reversed(keys):
        name = key.removeprefix("-")
        with_it = [row for row in rows if is_there(row.get(name))]
        # Numbers before texts: an option may be either.
        with_it.sort(key=lambda row: sortable(row[name]), reverse=key.startswith("-"))
        rows = with_it + [row for row in rows if not is_there(row.get(name))]
    return rows


def is_there(value: Any) -> bool:
    """Whether it can be compared: None and NaN cannot."""
    return value is not None and not (isinstance(value, float) and math.isnan(value))


def sortable(value: Any) -> tuple[bool, Any]:
    """What sorts numbers before texts."""
    number = isinstance(value, int | float)
    return not number, value if number else str(value)
