"""Runs of an engine that wrote no summary.json: what their record, config and metrics tell."""

import re
import shlex
from pathlib import Path
from typing import Any

from src.tools.runs.curves import read_curves
from src.tools.runs.options import load_yaml

VERBS = ("fit", "validate", "test", "predict")


def from_record(folder: Path) -> dict[str, Any]:
    """A row as far as these files tell: no time, and an end only where they show it.

    Raises:
        ValueError, LookupError, TypeError, AttributeError: Where they are broken.
    """
    entries = load_yaml(folder / "record.yaml")
    first, last = entries[0], entries[-1]
    verb = next((word for word in shlex.split(first["command"]) if word in VERBS), "fit")
    curves = read_curves(folder)
    git = last["git"] or {}
    epochs = [int(value) for _, value in curves.pop("epoch", [])]
    row = {
        "metrics": {name: points[-1][1] for name, points in curves.items() if not name.startswith("lr")},
        "verb": verb,
        "started": first["time"],
        "device": last["device"]["name"] if last["device"]["type"] == "cuda" else last["device"]["type"],
        "processes": last["device"]["processes"],
        "commit": git.get("commit"),
        "changes": git.get("changes"),
    }
    if verb == "fit":
        row |= {"epochs": max(epochs, default=None)}
        row |= {"steps": max((int(points[-1][0]) for points in curves.values()), default=None)}
        row |= best_of(folder, curves)
    return row | how_it_ended(folder, verb, curves)


def best_of(folder: Path, curves: dict[str, list[tuple[float, float]]]) -> dict[str, Any]:
    """The metric that decides which checkpoint is best, and its best value where the files say which that is."""
    config = folder / "config.yaml"
    checkpoint = load_yaml(config).get("checkpoint", {}) if config.exists() else {}
    monitor, mode = str(checkpoint.get("monitor")), checkpoint.get("mode")
    if mode is None and re.search(r"[/_]loss(/|$)", monitor):
        mode = "min"
    values = [value for _, value in curves.get(monitor, []) if value == value]
    return {"monitor": monitor, "best": {"min": min, "max": max}[mode](values) if mode and values else None}


def how_it_ended(folder: Path, verb: str, curves: dict[str, Any]) -> dict[str, Any]:
    """The state; `unknown` where an old run may have been stopped, may have failed or may have finished."""
    metrics, crash = folder / "metrics.csv", folder / "traceback.txt"
    later = crash.exists() and not (metrics.exists() and metrics.stat().st_mtime > crash.stat().st_mtime)
    if later:
        return {"state": "failed", "reason": crash.read_text(encoding="utf-8").strip().rpartition("\n")[2]}
    # What a verb writes last.
    done = {"fit": "test/", "validate": "val/", "test": "test/"}.get(verb, "/")
    if any(name.startswith(done) for name in curves) or any(folder.glob("predictions.*")):
        return {"state": "finished"}
    return {"state": "unknown", "reason": "of an engine that wrote no summary.json"}
