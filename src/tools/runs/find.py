"""Where the runs lie: each folder `version_<n>` below a root, by its path from there."""

import os
import re
import sys
from collections.abc import Iterator
from difflib import get_close_matches
from fnmatch import fnmatchcase
from pathlib import Path

VERSION = re.compile(r"version_(\d+)")
# The many fits of one command: shown when they are asked for.
MANY = re.compile(r"(?:sweep|repeat)_[\d*?]+")


def find(root: Path, filters: list[str], everything: bool = False) -> tuple[dict[str, Path], list[str]]:
    """The runs below a root.

    Args:
        root: A folder, `runs`.
        filters: Experiments or runs, `*` for any letters; none for all. Ends the program where one fits no run.
        everything: Also those of sweeps and repeats, which else are found where a filter names them.

    Returns:
        The folder of each run by its name, `xor/version_3`; and what else to tell: what was left out.
    """
    if not root.is_dir():
        sys.exit(
            f"error: --root {root} is no folder. Runs lie where the first fit was started: --root <that folder>/runs."
        )
    deep = everything or any(is_many(text) for text in filters)
    found: dict[str, Path] = {}
    left: list[str] = []
    for name, path, is_run in _walk(root, "", deep):
        if is_run:
            found[name] = path
        else:
            left.append(name)
    for text in filters:
        if not any(fits(name, text) for name in [*found, *left]):
            _refuse(text, root, [*found, *left])
    if filters:
        found = {
            name: path
            for name, path in found.items()
            if any(fits(name, text) and (everything or is_many(text) or not is_many(name)) for text in filters)
        }
        left = [name for name in left if any(fits(name, text) for text in filters)]
    return found, left


def is_many(name: str) -> bool:
    """Whether a run, an experiment or a filter is of a sweep or a repeat."""
    return any(MANY.fullmatch(part) for part in name.split("/"))


def fits(name: str, text: str) -> bool:
    """Whether a filter names a run, its experiment or a folder above it."""
    text = text.strip("/")
    parts = name.split("/")
    return any(fnmatchcase("/".join(parts[:number]), text) for number in range(1, len(parts) + 1))


def _walk(folder: str | Path, above: str, deep: bool) -> Iterator[tuple[str, Path, bool]]:
    """Each run's name, folder and True; of each folder that is left out the same and False."""
    try:
        with os.scandir(folder) as entries:
            inside = sorted((entry for entry in entries if entry.is_dir()), key=lambda entry: in_order(entry.name))
    except OSError:
        yield f"{above}* which cannot be read", Path(folder), False
        return
    for entry in inside:
        name = above + entry.name
        if VERSION.fullmatch(entry.name):
            yield name, Path(entry.path), True
        elif MANY.fullmatch(entry.name) and not deep:
            yield name, Path(entry.path), False
        elif not (
            entry.is_symlink() and Path(folder).resolve().is_relative_to(Path(entry.path).resolve())
        ):  # no circle
            yield from _walk(entry.path, f"{name}/", deep)


def in_order(name: str) -> list[str | int]:
    """What sorts version_10 behind version_9; texts and numbers take turns."""
    return [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", name)]


def find_one(root: Path, text: str) -> tuple[str, Path]:
    """The run that a word names: `xor/version_3`, a path in its folder, or `xor` for its latest.

    Args:
        root: A folder, `runs`.
        text: The word. Ends the program where it names none.
    """
    there, top = (Path(os.path.abspath(path)) for path in (Path(text).expanduser(), root))  # noqa: PTH100, without ..
    own = [path for path in (there, *there.parents) if VERSION.fullmatch(path.name)]
    if there.exists() and own:
        return (own[0].relative_to(top) if own[0].is_relative_to(top) else own[0]).as_posix(), own[0]
    if there.is_dir() and there.is_relative_to(top):  # runs/xor
        text = there.relative_to(top).as_posix()
    runs = find(root, [], everything=True)[0]
    text = text.strip("/")
    latest = [name for name in runs if name == text or name.rpartition("/")[0] == text]
    if not latest:
        _refuse(text, root, list(runs))
    name = max(latest, key=in_order)
    return name, runs[name]


def _refuse(text: str, root: Path, names: list[str]) -> None:
    experiments = sorted({name.rpartition("/")[0] if VERSION.search(name) else name for name in names})
    nearest = get_close_matches(text, [*experiments, *names], n=1)
    hint = f" Did you mean {nearest[0]}?" if nearest else ""
    shown = ", ".join(experiments[:20]) + (", ..." if len(experiments) > 20 else "")
    sys.exit(f"error: {text}: no such run or experiment under {root}; there are: {shown or 'none yet'}.{hint}")
