"""Compare runs side by side: what they are, the options that differ, and their metrics."""

import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from src.tools.common import Parser, lines_of, refuse
from src.tools.runs.listing import as_yaml, cell, cut
from src.tools.runs.read import COLUMNS, Row, find, named, read_run


def main(args: list[str]) -> None:
    """Print what differs; of a single run everything."""
    parser = Parser("python -m src runs compare", description=__doc__)
    parser.add_argument("runs", nargs="+", metavar="RUN", help="xor/version_3, or xor for its latest run")
    parser.add_argument("--root", type=Path, default=Path("runs"), help="the folder of all runs; default: runs")
    given = parser.parse_args(args)
    rows, options, runs = [], [], find(given.root)
    for text in given.runs:
        name = named(runs, text, given.root)[-1]
        row, own = read_run(name, runs[name], options=True)
        if row["state"] == "broken":
            refuse(f"{name} is broken: {row['reason']}")
        rows.append(row)
        options.append(own)
    print("\n".join(side_by_side(rows, options)))


def side_by_side(rows: list[Row], options: list[dict[str, Any]]) -> list[str]:
    """Return a line for each fact, option and metric, with a column for each run."""

    def lines(names: Iterable[str], indent: str = "") -> list[list[str]]:
        known = [name for name in names if any(row.get(name) is not None for row in rows)]
        return [[indent + name, *(cell(name, row) for row in rows)] for name in known]

    names = dict.fromkeys(name for each in options for name in each if name not in COLUMNS)
    texts = {name: [as_yaml(each[name]) if name in each else "-" for each in options] for name in names}
    changed = [[f"  {name}", *each] for name, each in texts.items() if len(rows) == 1 or len(set(each)) > 1]
    title = "options" if len(rows) == 1 else "options that differ" if changed else "no option differs"
    metrics = lines(sorted({name for row in rows for name in row} - COLUMNS.keys()), "  ")
    blank = [""] * len(rows)
    table = [*lines(COLUMNS), ["", *blank], [title, *blank], *changed]
    table += [["", *blank], ["last metrics", *blank], *metrics] if metrics else []
    room = shutil.get_terminal_size((1_500, 24)).columns - max(len(row[0]) for row in table)
    most = max(room // len(rows) - 2, 10)
    return lines_of([[name, *(cut(text, most) for text in texts)] for name, *texts in table])
