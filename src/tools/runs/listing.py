"""The table of all runs, filtered and sorted; as text, CSV or JSON."""

import argparse
import csv
import json
import math
import sys
from pathlib import Path
from typing import Any

from src.tools.common import lines_of
from src.tools.runs import columns
from src.tools.runs.find import find, is_many
from src.tools.runs.read import Row, read_run
from src.tools.runs.table import cut, width_here
from src.tools.runs.where import Condition, ordered

HELP = """
examples:
  python -m src runs                                        every run under runs/
  python -m src runs xor "mnist*" --where "test/acc > 0.98" --sort=-test/acc
  python -m src runs mnist/sweep_0 --columns +model.optimizer.lr --sort best
  python -m src runs --format csv > runs.csv
  python -m src runs compare mnist/version_3 mnist          what differs
  python -m src runs show xor                               its latest run in full

columns:
"""


def main(args: list[str]) -> None:
    """Print the table."""
    about = [f"  {name:<12}{meaning}" for name, meaning in columns.FIXED.items()]
    parser = argparse.ArgumentParser(
        "python -m src runs",
        description="Lists all runs in a table, by the files in their folders.",
        epilog="\n".join([HELP.rstrip(), *about, "  and each metric (val/loss), and each option (model.optimizer.lr)"]),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("filter", nargs="*", help="experiments or runs, * for any letters; by default all")
    parser.add_argument("--all", action="store_true", help="also the runs of sweeps and repeats")
    parser.add_argument("--where", action="append", default=[], metavar="'COLUMN > VALUE'", help="may be given again")
    parser.add_argument(
        "--sort",
        default="started",
        metavar="COLUMNS",
        help="several by commas, - before a name reverses it; default: started",
    )
    parser.add_argument("--columns", metavar="A,B", help="which, in this order; +A,B adds some to the usual ones")
    parser.add_argument("--format", choices=("table", "csv", "json"), default="table")
    parser.add_argument("--root", type=Path, default=Path("runs"), help="the folder of all runs; default: runs")
    given = parser.parse_args(joined(args))
    conditions = [Condition(text) for text in given.where]
    wanted = [name for name in (given.columns or "").removeprefix("+").split(",") if name]
    found, left = find(given.root, given.filter, given.all)
    rows = [read_run(name, folder) for name, folder in found.items()]
    keys = [key for key in given.sort.split(",") if key]
    asked = {
        "--columns": wanted,
        "--where": [each.column for each in conditions],
        "--sort": [key.removeprefix("-") for key in keys],
    }
    usual = not wanted or given.columns.startswith("+")
    if usual:  # what decided which runs are there, and in which order, is seen
        wanted = [*wanted, *asked["--where"], *(asked["--sort"] if given.sort != parser.get_default("sort") else [])]
    known = listed = columns.names_of(rows)
    if any(name not in known for names in asked.values() for name in names):
        from src.tools.runs.options import add_options  # YAML takes its time

        rows = [add_options(row, found[row["run"]]) for row in rows]
        known = columns.names_of(rows)
    for option, names in asked.items() if rows else ():
        columns.refuse_unknown(names, known, listed, option)
    rows = ordered([row for row in rows if all(each.holds(row) for each in conditions)], keys)
    if given.format == "table" and rows:
        print_table(rows, listed if usual else [], wanted)
    elif given.format != "table":
        names = list(dict.fromkeys([*(listed if usual else []), *wanted]))
        (print_csv if given.format == "csv" else print_json)(rows, names)
    if not rows:
        none = f"no run under {given.root} {'but what is left out' if left else 'yet'}"
        told = f"of {len(found)} runs under {given.root} none fits" if found else none
        print(told, file=sys.stderr)
    if left:
        hint = " (--all shows them)" if any(map(is_many, left)) else ""
        print(f"left out: {', '.join(left)}{hint}", file=sys.stderr)


def joined(args: list[str]) -> list[str]:
    """`--sort -test/acc` as argparse takes it: a value that begins with a dash belongs to its option."""
    out: list[str] = []
    for word in args:
        if out and out[-1] == "--sort" and word.startswith("-") and not word.startswith("--"):
            out[-1] = f"--sort={word}"
        else:
            out.append(word)
    return out


def print_table(rows: list[Row], known: list[str], wanted: list[str]) -> None:
    """As text; the usual columns as far as there is room, and those that were asked for.

    Args:
        rows: The runs.
        known: What the usual columns are chosen from; none where only those are wanted that were asked for.
        wanted: Columns that were asked for.
    """
    width = width_here() if known else None
    if known:  # how a finished run ended is of no interest here
        rows = [row | {"reason": None} if row["state"] == "finished" else row for row in rows]
    names = list(dict.fromkeys([*(columns.usual(rows, known) if known else []), *wanted]))
    spared: list[str] = []
    for name in ["", *columns.SPARED]:
        gone = [each for each in names if each == name or (name == "test/*" and each not in columns.FIXED)]
        spared += [each for each in gone if each not in wanted]
        lines = lines_of_runs(rows, [each for each in names if each not in spared], width)
        if width is None or max(map(len, lines)) <= width:
            break
    print("\n".join(lines))
    if spared:
        print(f"no room for: {', '.join(spared)}", file=sys.stderr)


def lines_of_runs(rows: list[Row], names: list[str], width: int | None) -> list[str]:
    """A line with the columns' names, and one for each run.

    Args:
        rows: The runs.
        names: The columns.
        width: Of the terminal: a single text may take a third of it.
    """
    monitor = columns.monitor_of(rows)
    head = [f"best {monitor}" if name == "best" and monitor else name for name in names]
    figures = {k for k, name in enumerate(names) if all(isinstance(row.get(name), int | float | None) for row in rows)}
    widest = None if width is None else max(width // 3, 20)
    room = [None if name == "run" else widest for name in names]  # a name that can be pasted
    cells = [
        [cut(columns.cell(name, row.get(name), row), most) for name, most in zip(names, room, strict=True)]
        for row in rows
    ]
    return lines_of([head, *cells], figures)


def print_csv(rows: list[Row], names: list[str]) -> None:
    """Values in full, as numbers."""
    writer = csv.DictWriter(sys.stdout, names, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)


def print_json(rows: list[Row], names: list[str]) -> None:
    """A list of objects; null where nothing is known, texts for what JSON does not know: "NaN", "Infinity", a date."""
    print(json.dumps([{name: _plain(row.get(name)) for name in names} for row in rows], indent=1, default=str))


def _plain(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    if isinstance(value, dict):
        return {str(key): _plain(each) for key, each in value.items()}
    return [_plain(each) for each in value] if isinstance(value, list) else value
