"""Choose and sort runs: `--where "test/acc > 0.98"`, `--sort=-test/acc`."""

import operator
import re
from collections.abc import Callable
from typing import Any

from src.tools.common import refuse
from src.tools.runs.read import Row

COMPARE: dict[str, Callable[[Any, Any], bool]] = {
    ">=": operator.ge,
    "<=": operator.le,
    "!=": operator.ne,
    "==": operator.eq,
    ">": operator.gt,
    "<": operator.lt,
    "=": operator.eq,
    "~": lambda value, text: text in value,
}
CONDITION = re.compile(rf"\s*(.+?)\s*({'|'.join(map(re.escape, COMPARE))})\s*(['\"]?)(.*?)\3\s*")


class Condition:
    """A column, a comparison and a value, as `test/acc > 0.98`."""

    def __init__(self, text: str) -> None:
        found = CONDITION.fullmatch(text)
        if not found:
            signs = f"{' '.join(COMPARE)} (~ is 'contains')"
            refuse(f'--where {text!r} is no condition. Write a column, one of {signs} and a value: "test/acc > 0.98".')
        self.text = text
        self.column, self.sign, _, self.value = found.groups()

    def holds(self, row: Row) -> bool:
        """Return whether a run meets it; a run without the value meets only `!=`."""
        value, compare = row.get(self.column), COMPARE[self.sign]
        if value is None:
            return self.sign == "!="
        if self.sign == "~" or isinstance(value, bool) or not isinstance(value, int | float):
            return compare(str(value).lower(), self.value.lower())  # YAML's true, and any spelling
        try:
            return compare(value, float(self.value))
        except ValueError:
            if self.sign in ("=", "==", "!="):  # another run has a text there: precision 32 and bf16-mixed
                return self.sign == "!="
            refuse(f"--where {self.text!r}: {self.column} holds numbers, {self.value!r} is none.")


def ordered(rows: list[Row], keys: list[str]) -> list[Row]:
    """Sort by columns, the first one first; `-` before a name reverses it. Runs without a value come last."""
    for key in reversed(keys):
        name = key.removeprefix("-")
        rows = sorted(rows, key=lambda row: rank(row.get(name)), reverse=key.startswith("-"))
        rows.sort(key=lambda row: row.get(name) is None or row[name] != row[name])  # NaN, too
    return rows


def rank(value: Any) -> tuple[bool, Any]:
    """Return a key that sorts numbers before texts: an option may be either."""
    return (False, value) if isinstance(value, int | float) and value == value else (True, str(value))
