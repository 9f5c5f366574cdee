"""What a run's folder says of the run, as one flat row; whatever is wrong with the folder."""

import json
from datetime import datetime
from pathlib import Path
from typing import Any

from src.tools.runs.alive import judge
from src.tools.runs.find import VERSION

Row = dict[str, Any]

# What a summary says, beside its metrics.
TOLD = (
    *("verb", "state", "reason", "started", "updated", "seconds", "epochs", "steps", "monitor", "best", "parameters"),
    *("device", "processes", "commit", "changes", "note", "source"),
)


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
    row |= dict.fromkeys((*TOLD, "host", "pid"))
    try:
        if (folder / "summary.json").exists():
            told = from_summary(folder)
        elif (folder / "record.yaml").exists():
            from src.tools.runs.older import from_record  # YAML takes its time

            told = from_record(folder)
        else:
            rest = "only a config" if (folder / "config.yaml").exists() else "no files of a run"
            told = {"state": "broken", "reason": f"{rest}: it ended before its start, or is about to begin"}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, LookupError) as error:
        told = {"state": "broken", "reason": _why(error)}
    return told | row | {key: value for key, value in told.items() if key in row}


def from_summary(folder: Path) -> Row:
    """What summary.json says.

    Raises:
        ValueError, KeyError, TypeError, AttributeError: Where it is none, or a part of one.
    """
    told = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
    row = {key: told.get(key) for key in TOLD} | {key: told["process"][key] for key in ("host", "pid")}
    row |= {"seconds": float(told["seconds"]), "best": number(told.get("best"))}
    updated_s = datetime.fromisoformat(told["updated"]).timestamp()
    datetime.fromisoformat(told["started"])
    if told["state"] == "running":
        row["state"], row["reason"] = judge(told["process"], updated_s, folder)
    return {key: number(value) for key, value in told["metrics"].items()} | row


def number(value: Any) -> float | None:
    """A number, also one that JSON has no word for."""
    return None if value is None else float(value)


def _why(error: Exception) -> str:
    if isinstance(error, OSError):
        return f"{Path(str(error.filename)).name}: {error.strerror}"
    if isinstance(error, KeyError):
        return f"{error} is missing"
    return " ".join(str(error).split())[:200]
