"""Compare runs side by side: the options that differ and their metrics."""

import argparse
import string
import sys
from pathlib import Path
from typing import Any

from src.tools.common import lines_of
from src.tools.runs import columns
from src.tools.runs.find import find_one
from src.tools.runs.options import as_text, read_options
from src.tools.runs.read import Row, read_run, why
from src.tools.runs.table import cut, width_here

FACTS = (
    *("run", "verb", "state", "reason", "started", "seconds", "epochs", "steps", "monitor", "best", "parameters"),
    *("device", "commit", "source", "note"),
)


def main(args: list[str]) -> None:
    """Print what differs."""
    parser = argparse.ArgumentParser("python -m src runs compare", description=__doc__)
    parser.add_argument("runs", nargs="+", metavar="RUN", help="xor/version_3, a path, or xor for its latest run")
    parser.add_argument("--root", type=Path, default=Path("runs"), help="the folder of all runs; default: runs")
    given = parser.parse_args(args)
    if not 2 <= len(given.runs) <= len(string.ascii_uppercase):
        sys.exit(f"error: {len(given.runs)} run(s) to compare: name two, or up to 26. python -m src runs lists them.")
    found = dict(zip(string.ascii_uppercase, (find_one(given.root, text) for text in given.runs), strict=False))
    rows = {letter: read_run(*each) for letter, each in found.items()}
    options = [options_of(name, folder, rows[letter]) for letter, (name, folder) in found.items()]
    print("\n".join(side_by_side(list(rows.values()), options)))


def options_of(name: str, folder: Path, row: Row) -> dict[str, Any]:
    """Return the options of a run; end the program if the run is broken."""
    if row["state"] == "broken":
        sys.exit(f"error: {name} is broken: {row['reason']}")
    try:
        return read_options(folder)
    except Exception as error:  # whatever stands there
        sys.exit(f"error: {name} cannot be read: {why(error)}")


def different(options: list[dict[str, Any]]) -> dict[str, list[str]]:
    """The options that are not the same in all runs, as texts; `-` where a run has no such option."""
    names = dict.fromkeys(name for each in options for name in each if name != "note")
    missing = object()
    values = {name: [each.get(name, missing) for each in options] for name in names}
    return {
        name: ["-" if value is missing else as_text(value) for value in each]
        for name, each in values.items()
        if len(set(map(repr, each))) > 1  # true is not 1, but NaN is NaN
    }


def side_by_side(rows: list[Row], options: list[dict[str, Any]]) -> list[str]:
    """A line for each fact, option and metric, with a column for each run."""
    blank = [""] * len(rows)

    def cells(names: list[str], indent: str) -> list[list[str]]:
        said = [name for name in names if any(row.get(name) is not None for row in rows)]
        return [[indent + name, *(columns.cell(name, row.get(name), row) for row in rows)] for name in said]

    changed = [[f"  {name}", *values] for name, values in different(options).items()]
    metrics = cells([name for name in columns.names_of(rows) if name not in columns.FIXED], "  ")
    table = [["", *string.ascii_uppercase[: len(rows)]], *cells(list(FACTS), "")]
    table += [["", *blank], ["options that differ" if changed else "no option differs", *blank], *changed]
    table += [["", *blank], ["last metrics", *blank], *metrics] if metrics else []
    width = width_here()
    room = None if width is None else max((width - max(len(row[0]) for row in table)) // len(rows) - 2, 10)
    return lines_of([[row[0], *(cut(text, room) for text in row[1:])] for row in table])
