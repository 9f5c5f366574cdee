"""The columns that there are, and how a value stands in a cell."""

import math
import sys
from collections.abc import Iterable
from datetime import datetime
from difflib import get_close_matches
from typing import Any

from src.tools.runs.alive import in_words
from src.tools.runs.read import Row
from src.tools.runs.table import cut

# In the order of the table; a metric or an option is a column, too.
FIXED = {
    "run": "experiment/version_<n>, the path of its folder",
    "experiment": "the path above",
    "version": "its number",
    "verb": "fit, validate, test or predict",
    "state": "running, finished, stopped (by a signal), failed, broken (its folder), unknown (an older engine's)",
    "started": "when, ISO 8601 (UTC; the table has the time here)",
    "updated": "when it last told of itself",
    "seconds": "how long, all its parts",
    "epochs": "done",
    "steps": "done",
    "monitor": "the metric that decides which checkpoint is best",
    "best": "its best value",
    "note": "given by --note",
    "reason": "why it ended",
    "parameters": "their number",
    "device": "its name",
    "processes": "their number",
    "commit": "of git; with a + where files were changed since",
    "changes": "the file that has these changes",
    "source": "the checkpoint that it began with",
    "host": "the machine",
}
DEFAULT = (
    *("run", "verb", "state", "started", "seconds", "epochs", "monitor", "best", "test/*", "note", "reason"),
    *("parameters", "device", "commit"),
)
# What a narrow terminal does without, the first one first.
SPARED = (
    *(
        "commit",
        "device",
        "parameters",
        "epochs",
        "seconds",
        "monitor",
        "test/loss",
        "started",
        "reason",
        "note",
        "verb",
    ),
    "test/*",
)


def names_of(rows: Iterable[Row]) -> list[str]:
    """Every column of some runs: the fixed ones, then the metrics by name."""
    return [*FIXED, *sorted({name for row in rows for name in row} - FIXED.keys())]


def refuse_unknown(names: Iterable[str], known: list[str], listed: list[str], option: str) -> None:
    """End the program where a column is none.

    Args:
        names: Those that were asked for.
        known: All that there are.
        listed: Of these, what the line lists: a config has more than a hundred.
        option: That asked.
    """
    for name in names:
        if name not in known:
            nearest = get_close_matches(name, known, n=1)
            hint = f" Did you mean {nearest[0]}?" if nearest else ""
            there = f"{', '.join(listed)}; and each option of a config, as model.optimizer.lr"
            sys.exit(f"error: {option}: no column {name!r}; there are: {there}.{hint}")


def is_test(name: str) -> bool:
    """Whether it is a metric of the test, and not of a single class or data set."""
    return name.startswith("test") and name.count("/") < 2


def usual(rows: list[Row], known: list[str]) -> list[str]:
    """The columns of the table: those that say something.

    Args:
        rows: The runs.
        known: Their columns, without options.
    """
    metrics = [name for name in known if is_test(name)]
    if not metrics and all(row["best"] is None for row in rows):  # no test and no validation: what else there is
        metrics = [name for name in known if name not in FIXED and name.count("/") < 2]
    names = [name for each in DEFAULT for name in (metrics if each == "test/*" else [each])]
    silent = {"monitor"} if monitor_of(rows) else set()
    return [name for name in names if name not in silent and any(row.get(name) is not None for row in rows)]


def monitor_of(rows: list[Row]) -> str | None:
    """The metric that `best` is of, if it is the same for all."""
    monitors = {row["monitor"] for row in rows if row["best"] is not None}
    return monitors.pop() if len(monitors) == 1 else None


def cell(name: str, value: Any, row: Row) -> str:
    """A value as it is read; nothing where nothing is known."""
    if value is None:
        return ""
    if name in ("started", "updated"):
        return f"{datetime.fromisoformat(value).astimezone():%Y-%m-%d %H:%M}"
    if name == "seconds":
        return in_words(value)
    if name == "commit":
        return str(value)[:7] + ("+" if row["changes"] else "")
    if name == "device":
        return f"{row['processes']} x {value}" if (row["processes"] or 1) > 1 else str(value)
    if isinstance(value, bool):  # as YAML has it, and --where
        return str(value).lower()
    if not isinstance(value, int | float):
        return cut(" ".join(str(value).split()), 500)
    if isinstance(value, int):
        return str(value) if name == "version" else f"{value:,}"
    plain = value == 0 or 0.001 <= abs(value) < 100_000 or not math.isfinite(value)
    return f"{value:.4f}" if plain else f"{value:.3g}"
