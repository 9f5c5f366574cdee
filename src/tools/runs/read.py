"""Read a run's folder: its summary as a flat row, and its options by the names of the command line."""

import json
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

import yaml

from src.tools.runs.find import VERSION

Row = dict[str, Any]
# A fit writes its checkpoint every ten minutes, unless its options say otherwise.
SILENT_S = 30 * 60
# What a run writes as it goes.
SIGNS = ("summary.json", "metrics.csv", "checkpoints/last.ckpt")
# The columns of every run beside its metrics and options, and their meaning.
COLUMNS = {
    "run": "experiment/version_<n>, the path of its folder",
    "experiment": "the path above",
    "version": "its number",
    "verb": "fit, validate, test or predict",
    "state": "running, finished, stopped (by a signal), failed, broken (its folder)",
    "started": "when, ISO 8601 (UTC; local time in the table)",
    "seconds": "how long, over all resumes",
    "epochs": "done",
    "steps": "done",
    "monitor": "the metric that decides which checkpoint is best",
    "best": "its best value",
    "note": "given by --note",
    "reason": "why it ended",
    "parameters": "how many",
    "device": "its name",
    "processes": "how many",
    "commit": "of git; + if files were changed since",
    "changes": "the file with these changes",
    "source": "the checkpoint that it began with",
    "host": "the machine",
}


def read_run(name: str, folder: Path, options: bool = False) -> tuple[Row, dict[str, Any]]:
    """Return a row of one run, the columns above and its metrics, with None for unknown values; and its options.

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
        numbers = summary.pop("metrics") | {"best": summary.get("best")}  # NaN is a text
        numbers = {metric: float(value) for metric, value in numbers.items() if value is not None}
        known = {key: value for key, value in summary.items() if key in COLUMNS}
        return row | known | numbers | place, read_options(folder) if options else {}
    except FileNotFoundError:
        reason = "no summary.json: it is about to begin, or ended before its start"
    except Exception as error:  # one damaged file must not cost the whole table
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:200]
    return row | {"state": "broken", "reason": reason}, {}


def judge(host: str, folder: Path, now_s: float) -> tuple[str, str]:
    """Return state and reason of a run that has not noted its end; the time of its latest file decides."""
    written_s = max((folder / name).stat().st_mtime for name in SIGNS if (folder / name).exists())
    silent_s = max(now_s - written_s, 0.0)
    reason = f"on {host}, silent for {timedelta(seconds=round(silent_s))}"
    return ("running", reason) if silent_s < SILENT_S else ("failed", f"{reason}: taken for killed")


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
