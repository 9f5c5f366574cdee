"""What a run's folder says of the run, as one flat row; whatever is wrong with the folder."""

import json
import time
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

from src.tools.runs.alive import judge
from src.tools.runs.find import VERSION

Row = dict[str, Any]


def iso_time(value: Any) -> str:
    """A time, ISO 8601; one that can be shown as the time here."""
    when = datetime.fromisoformat(str(value))
    when.astimezone()
    return when.isoformat()


# What a run tells beside its metrics, and what of; a value of another kind is a mistake in the file.
TOLD: dict[str, Callable[[Any], Any]] = {
    **dict.fromkeys(
        ("verb", "state", "reason", "monitor", "device", "commit", "changes", "note", "source", "host"), str
    ),
    **dict.fromkeys(("epochs", "steps", "parameters", "processes"), int),
    **dict.fromkeys(("seconds", "best"), float),
    **dict.fromkeys(("started", "updated"), iso_time),
}


def read_run(name: str, folder: Path) -> Row:
    """A row of one run: `run`, `experiment` and `version` from its place, all else from its files.

    Args:
        name: The run's, `xor/version_3`.
        folder: Where it lies.

    Returns:
        Values by column, None where nothing is known; metrics under their own names. A folder that cannot be read is a
        run whose state is `broken`, with the reason.
    """
    experiment, _, version = name.rpartition("/")
    number = VERSION.fullmatch(version)
    row: Row = {"run": name, "experiment": experiment, "version": int(number[1]) if number else None}
    row |= dict.fromkeys(TOLD)
    try:
        told = tell(folder)
        metrics = {metric: float(value) for metric, value in told["metrics"].items() if value is not None}
        return metrics | row | {key: kind(told[key]) for key, kind in TOLD.items() if told.get(key) is not None}
    except Exception as error:  # whatever is in a folder, it never takes the table away
        return row | {"state": "broken", "reason": why(error)}


def tell(folder: Path) -> Row:
    """What the files say: the columns of `TOLD`, and the metrics. Where they are broken, any error."""
    if (folder / "summary.json").exists():
        told: Row = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
        if told["state"] == "running":
            updated_s = datetime.fromisoformat(told["updated"]).timestamp()
            told["state"], told["reason"] = judge(str(told["host"]), updated_s, folder, time.time())
        return told
    there = "only a config" if (folder / "config.yaml").exists() else "no files of a run"
    raise ValueError(f"{there}: it ended before its start, or is about to begin")


def why(error: Exception) -> str:
    """An error in a line."""
    if isinstance(error, OSError):
        return f"{Path(str(error.filename)).name}: {error.strerror}"
    if isinstance(error, KeyError):
        return f"{error} is missing"
    return " ".join(str(error).split())[:200] or type(error).__name__
