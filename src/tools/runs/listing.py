"""The table of all runs, filtered and sorted; as text, CSV or JSON."""

import csv
import json
import operator
import re
import shutil
import sys
from collections.abc import Callable
from datetime import datetime, timedelta
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from src.tools.common import Parser, lines_of, refuse
from src.tools.runs.read import COLUMNS, Row, find, named, read_run

HELP = """
examples:
  python -m src runs                                        every run under runs/
  python -m src runs xor "mnist*" --where "test/acc > 0.98" --sort=-test/acc
  python -m src runs mnist/sweep_0 --columns +model.optimizer.lr --sort best
  python -m src runs compare mnist/version_3 mnist          what differs; `show mnist` is one run in full

columns, beside each metric (val/loss) and each option (model.optimizer.lr):
"""
# The usual columns of the table, with the test's metrics between. A line is cut where the terminal ends.
BEFORE = ("run", "verb", "state", "started", "monitor", "best")
BEHIND = ("note", "reason", "epochs", "seconds", "parameters", "device", "commit")

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


def main(args: list[str]) -> None:
    """Print the table."""
    facts = "\n".join(f"  {name:<12}{meaning}" for name, meaning in COLUMNS.items())
    parser = Parser("python -m src runs", description=__doc__, epilog=HELP + facts)
    add = parser.add_argument
    add("filter", nargs="*", help="experiments or runs, * for any letters; by default all")
    add("--all", action="store_true", help="also the runs of sweeps and repeats")
    add("--where", action="append", default=[], metavar="'COLUMN > VALUE'", help="may be given several times")
    add("--sort", default="", metavar="COLUMNS", help="separated by commas, - before a name reverses it; else: started")
    add("--columns", default="+", metavar="A,B", help="which, in this order; +A,B adds some to the usual ones")
    add("--format", choices=("table", "csv", "json"), default="table")
    add("--root", type=Path, default=Path("runs"), help="the folder of all runs; default: runs")
    given = parser.parse_args(args)
    conditions = [parse(text) for text in given.where]
    keys, wanted = (list(filter(None, text.split(","))) for text in (given.sort, given.columns.removeprefix("+")))
    deciding = [*(each[1] for each in conditions), *(key.removeprefix("-") for key in keys)]

    found = find(given.root)
    words = given.filter or (["*"] if found else [])
    names, every = ({n for word in words for n in named(found, word, given.root, a)} for a in (given.all, True))
    rows = [read_run(name, found[name])[0] for name in found if name in names]
    known = listed = names_of(rows)
    if not {*wanted, *deciding} <= {*known}:
        rows = [options | row for row, options in (read_run(row["run"], found[row["run"]], True) for row in rows)]
        known = names_of(rows)
    if wrong := [name for name in [*wanted, *deciding] if rows and name not in known]:
        nearest = get_close_matches(wrong[0], known, n=1)
        hint = f" Did you mean {nearest[0]}?" if nearest else ""
        there = f"{', '.join(listed)}; and each option of a config, as model.optimizer.lr"
        refuse(f"no column {wrong[0]!r}; there are: {there}.{hint}")
    matching = [row for row in rows if all(holds(condition, row) for condition in conditions)]
    matching = ordered(matching, keys or ["started"])

    if given.columns.startswith("+"):  # the columns that chose and sorted the runs are shown, too
        wanted += deciding
    else:
        listed = []
    columns = list(dict.fromkeys([*listed, *wanted]))
    if given.format == "csv":
        writer = csv.DictWriter(sys.stdout, columns, extrasaction="ignore", lineterminator="\n")
        writer.writeheader()
        writer.writerows(matching)
    elif given.format == "json":
        text = json.dumps([{name: row.get(name) for name in columns} for row in matching], default=str)
        # JSON has neither NaN nor Infinity: they become texts.
        print(json.dumps(json.loads(text, parse_constant=str), indent=1))
    elif matching:
        print_table(matching, wanted, listed)
    if not matching:
        there = f"none of {len(rows)} runs under {given.root} matches" if rows else f"no run under {given.root} yet"
        print(there, file=sys.stderr)
    if left := every - names:
        print(f"left out: {len(left)} runs of sweeps and repeats (--all shows them)", file=sys.stderr)


def names_of(rows: list[Row]) -> list[str]:
    """Return every column of some runs: the fixed ones, then metrics and options by name."""
    return [*COLUMNS, *sorted({name for row in rows for name in row} - COLUMNS.keys())]


def print_table(rows: list[Row], wanted: list[str], listed: list[str]) -> None:
    """Print the runs with the usual ones of the listed columns; the wanted ones come after the state."""
    # How a finished run ended is not worth a column.
    rows = [row | {"reason": None} if row["state"] == "finished" else row for row in rows]
    # Metrics of a single class or data set (val/f1/cat) are shown on demand only.
    metrics = [name for name in listed if name not in COLUMNS and name.count("/") < 2]
    if any(row["best"] is not None for row in rows) or any(name.startswith("test") for name in metrics):
        metrics = [name for name in metrics if name.startswith("test")]
    usual = [*BEFORE, *metrics, *BEHIND] if listed else []
    usual = [name for name in usual if any(row.get(name) is not None for row in rows)]
    names = list(dict.fromkeys([*usual[:3], *wanted, *usual[3:]]))
    width = shutil.get_terminal_size((1_500, 24)).columns  # a file may be wide
    most = max(width // 3, 20)
    cells = [[cell(name, row) if name == "run" else cut(cell(name, row), most) for name in names] for row in rows]
    right = {k for k, name in enumerate(names) if all(isinstance(row.get(name), int | float | None) for row in rows)}
    print("\n".join(line[:width] for line in lines_of([names, *cells], right)))


def cell(name: str, row: Row) -> str:
    """Return the value of a column as it is read; nothing for an unknown one."""
    value = row.get(name)
    if value is None:
        return ""
    if name == "started":
        return f"{datetime.fromisoformat(value).astimezone():%Y-%m-%d %H:%M}"
    if name == "seconds":
        return str(timedelta(seconds=round(value)))
    if name == "commit":
        return str(value)[:7] + ("+" if row["changes"] else "")
    if isinstance(value, bool) or not isinstance(value, int | float):
        return as_yaml(value)
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:.4f}" if value == 0 or 0.001 <= abs(value) < 100_000 else f"{value:.3g}"


def as_yaml(value: Any) -> str:
    """Return an option in a line: null, true, or its text."""
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else " ".join(str(value).split())


def cut(text: str, width: int) -> str:
    """Return a text, without its end if it is too long."""
    return text if len(text) <= width else f"{text[: width - 3]}..."


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
