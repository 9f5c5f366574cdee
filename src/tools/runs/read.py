"""Read a run's folder: its summary as a flat row, and its options by the names of the command line."""

import json
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import yaml

from src.tools.runs.find import VERSION

Row = dict[str, Any]
# A fit writes its checkpoint every ten minutes, unless its options say otherwise.
SILENT_S = 30 * 60
# What a run writes as it goes.
SIGNS = ("summary.json", "metrics.csv", "checkpoints/last.ckpt")


def utc(text: str) -> str:
    """Return a time of ISO 8601 in UTC."""
    return datetime.fromisoformat(text).astimezone(UTC).isoformat()


# The columns of every run beside its metrics and options: their type and meaning.
COLUMNS: dict[str, tuple[Callable[[Any], Any], str]] = {
    "run": (str, "experiment/version_<n>, the path of its folder"),
    "experiment": (str, "the path above"),
    "version": (int, "its number"),
    "verb": (str, "fit, validate, test or predict"),
    "state": (str, "running, finished, stopped (by a signal), failed, broken (its folder)"),
    "started": (utc, "when, ISO 8601 (UTC; local time in the table)"),
    "seconds": (float, "how long, over all resumes"),
    "epochs": (int, "done"),
    "steps": (int, "done"),
    "monitor": (str, "the metric that decides which checkpoint is best"),
    "best": (float, "its best value"),
    "note": (str, "given by --note"),
    "reason": (str, "why it ended"),
    "parameters": (int, "how many"),
    "device": (str, "its name"),
    "processes": (int, "how many"),
    "commit": (str, "of git; + if files were changed since"),
    "changes": (str, "the file with these changes"),
    "source": (str, "the checkpoint that it began with"),
    "host": (str, "the machine"),
}


def read_run(name: str, folder: Path, options: bool = False) -> Row:
    """Return a row of one run: the columns above and its metrics, with None for unknown values; also its options.

    A folder that cannot be read gives a row with the state `broken` and the reason.
    """
    experiment, _, version = name.rpartition("/")
    number = VERSION.fullmatch(version)
    place = {"run": name, "experiment": experiment, "version": int(number[1]) if number else None}
    row = dict.fromkeys(COLUMNS) | place
    try:
        summary = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
        if summary["state"] == "running":
            summary["state"], summary["reason"] = judge(summary["host"], folder, time.time())
        metrics = {metric: float(value) for metric, value in summary["metrics"].items() if value is not None}
        fields = {key: kind(summary[key]) for key, (kind, _) in COLUMNS.items() if summary.get(key) is not None}
        return (read_options(folder) if options else {}) | metrics | row | fields | place
    except FileNotFoundError:
        reason = "no summary.json: it is about to begin, or ended before its start"
    except Exception as error:  # one damaged file must not cost the whole table
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:200]
    return row | {"state": "broken", "reason": reason}


def judge(host: str, folder: Path, now_s: float) -> tuple[str, str]:
    """Return state and reason of a run that has not noted its end; the time of its latest file decides."""
    written_s = max((folder / name).stat().st_mtime for name in SIGNS if (folder / name).exists())
    silent_s = max(now_s - written_s, 0.0)
    reason = f"on {host}, silent for {in_words(silent_s)}"
    return ("running", reason) if silent_s < SILENT_S else ("failed", f"{reason}: taken for killed")


def in_words(seconds: float) -> str:
    """Return a duration in words: "2.2 s", "4 min", "2.5 h", "3.2 days"."""
    for most, size, unit in ((60, 1, "s"), (3_600, 60, "min"), (86_400, 3_600, "h")):
        if not seconds >= most:  # NaN, too
            return f"{seconds / size:.{0 if unit == 'min' else 1}f} {unit}"
    return f"{seconds / 86_400:.1f} days"


def read_options(folder: Path) -> dict[str, Any]:
    """Return every option of a run by its flat name, as the last resume left it; none without a config.yaml."""
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # quick, where PyYAML has it
    paths = [folder / "record.yaml", folder / "config.yaml"]
    record, config = (yaml.load(path.read_bytes(), loader) if path.exists() else None for path in paths)
    return flat((record[-1].get("config") if record else None) or config or {})


def flat(node: Any, name: str = "") -> dict[str, Any]:
    """Return the leaves of a config by the names of the command line; a list is a leaf."""
    leaves: dict[str, Any] = {}
    if isinstance(node, dict) and "class_path" in node:
        leaves = {name: node["class_path"]}
        node = {**(node.get("init_args") or {}), **(node.get("dict_kwargs") or {})}
    elif not isinstance(node, dict) or not node:
        return {name: node}
    for key, value in node.items():
        leaves |= flat(value, f"{name}.{key}" if name else str(key))
    return leaves
