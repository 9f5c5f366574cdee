"""Find runs: folders `version_<n>` below a root, each named by its path from there."""

import os
import re
import sys
from collections.abc import Iterable
from difflib import get_close_matches
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath

from src.tools.common import refuse

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
