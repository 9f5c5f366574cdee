"""Find runs, folders `version_<n>` below a root, and read each as a flat row; its options have their flat names."""

import json
import os
import re
import sys
import time
from collections.abc import Iterable
from datetime import timedelta
from difflib import get_close_matches
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath
from typing import Any

import yaml

from src.tools.common import refuse

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
VERSION = re.compile(r"version_([0-9]+)")
# The folder of a sweep or a repeat in the name of a run, or in a word for some.
MANY = re.compile(r"(^|/)(sweep|repeat)_[0-9*?]+(/|$)")


def find(root: Path) -> dict[str, Path]:
    """Return the folder of each run below a root by the run's name, `xor/version_3`; version_10 follows version_9.

    A run counts once. Its name is its own place, or the link that leads to it from another disk.
    """
    if not root.is_dir():
        refuse(f"--root {root} is no folder. Name the folder `runs` beside which the first fit was started.")
    found, seen, top = set[str](), set[Path](), root.resolve()
    for name, folders, _ in os.walk(root, onerror=report, followlinks=True):
        folder, real = Path(name), Path(name).resolve()
        if folder != root and (VERSION.fullmatch(folder.name) or VERSION.fullmatch(real.name)):
            found.add((real.relative_to(top) if real.is_relative_to(top) else folder.relative_to(root)).as_posix())
            folders.clear()
        elif real in seen or (folder != root and top.is_relative_to(real)):
            folders.clear()
        seen.add(real)
    return {name: root / name for name in sorted(found, key=in_order)}


def report(error: OSError) -> None:
    """Print a note on a folder that cannot be read; one that was deleted in the meantime is none."""
    if not isinstance(error, FileNotFoundError):
        print(f"note: {error.filename} cannot be read: {error.strerror}", file=sys.stderr)


def named(runs: Iterable[str], text: str, root: Path, every: bool = False) -> list[str]:
    """Return the runs that a word names: a run, an experiment or a folder above; `*` and `?` are wildcards.

    Runs of sweeps and repeats are left out where there are others, unless every one is wanted or the word says so.
    A word that names no run ends the program.
    """
    runs = list(runs)
    text = text.rstrip("/").removeprefix(f"{root}/")
    parts = {name: [name, *(str(path) for path in PurePosixPath(name).parents)] for name in runs}
    names = [name for name in runs if any(part == text or fnmatchcase(part, text) for part in parts[name])]
    if not names:
        experiments = {name.rpartition("/")[0] for name in runs}
        nearest = get_close_matches(text, [*experiments, *runs], n=1)
        hint = f" Did you mean {nearest[0]}?" if nearest else ""
        refuse(f"{text}: no such run or experiment under {root}.{hint} `python -m src runs` lists them.")
    few = [name for name in names if not MANY.search(name)]
    return names if every or MANY.search(text) else few or names


def in_order(name: str) -> list[str | int]:
    """Return a key that sorts version_10 behind version_9: texts and numbers take turns."""
    return [int(part) if number % 2 else part for number, part in enumerate(re.split(r"([0-9]+)", name))]


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
