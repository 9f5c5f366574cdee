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


def parse(text: str) -> re.Match[str]:
    """Split a condition, as `test/acc > 0.98`, into a column, a comparison and a value."""
    if not (found := CONDITION.fullmatch(text)):
        signs = f"{' '.join(COMPARE)} (~ is 'contains')"
        refuse(f'--where {text!r} is no condition. Write a column, one of {signs} and a value: "test/acc > 0.98".')
    return found


def holds(condition: re.Match[str], row: Row) -> bool:
    """Return whether a run meets a condition; a run without the value meets only `!=`."""
    column, sign, _, wanted = condition.groups()
    value, compare = row.get(column), COMPARE[sign]
    if value is None:
        return sign == "!="
    if sign == "~" or isinstance(value, bool) or not isinstance(value, int | float):
        return compare(str(value).lower(), wanted.lower())  # YAML's true, and any spelling
    try:
        return compare(value, float(wanted))
    except ValueError:
        if sign in ("=", "==", "!="):  # another run has a text there: precision 32 and bf16-mixed
            return sign == "!="
        refuse(f"--where {condition[0]!r}: {column} holds numbers, {wanted!r} is none.")


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
