"""Runs side by side: the options that differ, their metrics, and their curves."""

import argparse
import string
import sys
from pathlib import Path
from typing import Any

from src.tools.runs import columns
from src.tools.runs.curves import Curve, draw, read_curves
from src.tools.runs.find import find_one
from src.tools.runs.options import as_text, read_options
from src.tools.runs.read import Row, read_run, why
from src.tools.runs.table import cut, lines_of, width_here

FACTS = (
    *("run", "verb", "state", "reason", "started", "seconds", "epochs", "steps", "monitor", "best", "parameters"),
    *("device", "commit", "source", "note"),
)


def main(args: list[str]) -> None:
    """Print what differs, and draw the curves."""
    parser = argparse.ArgumentParser("python -m src runs compare", description=__doc__)
    parser.add_argument("runs", nargs="+", metavar="RUN", help="xor/version_3, a path, or xor for its latest run")
    parser.add_argument("--metric", help="whose curve is drawn; by default the one that decides what is best")
    parser.add_argument("--picture", type=Path, metavar="FILE", help="draw all curves there, by matplotlib")
    parser.add_argument("--root", type=Path, default=Path("runs"), help="the folder of all runs; default: runs")
    given = parser.parse_args(args)
    if not 2 <= len(given.runs) <= len(string.ascii_uppercase):
        sys.exit(f"error: {len(given.runs)} run(s) to compare: name two, or up to 26. python -m src runs lists them.")
    found = dict(zip(string.ascii_uppercase, (find_one(given.root, text) for text in given.runs), strict=False))
    rows = {letter: read_run(*each) for letter, each in found.items()}
    options, curves = {}, {}
    for letter, (name, folder) in found.items():
        options[letter], curves[letter] = read_files(name, folder, rows[letter])
    name = curve_of(list(rows.values()), list(curves.values()), given.metric)
    print("\n".join(side_by_side(list(rows.values()), list(options.values()))))
    if name:
        print(f"\n{name}")
        print("\n".join(draw({letter: each[name] for letter, each in curves.items()}, width_here() or 80)))
    if given.picture:
        from src.tools.runs.picture import draw_picture

        draw_picture(given.picture, {f"{letter} {rows[letter]['run']}": each for letter, each in curves.items()})
        print(f"\nwrote {given.picture}")


def read_files(name: str, folder: Path, row: Row) -> tuple[dict[str, Any], dict[str, Curve]]:
    """The options and the curves of a run; ends the program where the run is broken."""
    if row["state"] == "broken":
        sys.exit(f"error: {name} is broken: {row['reason']}")
    try:
        return read_options(folder), read_curves(folder)
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


def curve_of(rows: list[Row], curves: list[dict[str, Curve]], wanted: str | None) -> str:
    """The metric whose curve is drawn; nothing where the runs have none in common."""
    common = [name for name in curves[0] if name != "epoch" and all(name in each for each in curves)]
    if wanted and wanted not in common:
        sys.exit(f"error: --metric {wanted}: these runs have in common: {', '.join(common) or 'none'}.")
    metrics = [name for name in common if not name.startswith("lr")]
    first = [wanted, *(row["monitor"] for row in rows), "val/loss", "train/loss", *metrics]
    return next((name for name in first if name in common), "")
