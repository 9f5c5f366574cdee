"""Where the runs lie: each folder `version_<n>` below a root, by its path from there; links lead to none twice."""

import os
import re
import sys
from collections.abc import Iterator
from difflib import get_close_matches
from fnmatch import fnmatchcase
from pathlib import Path

VERSION = re.compile(r"version_([0-9]+)")
# The many fits of one command: shown when they are asked for.
MANY = re.compile(r"(?:sweep|repeat)_[0-9*?]+")


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
    left: dict[str, Path] = {}
    for name, folder, is_run in sorted(_walk(root, deep), key=lambda each: [*map(in_order, each[0].split("/"))]):
        (found if is_run else left)[name] = folder
    chosen: set[str] = set()
    for text in filters:
        fitting = fits(found | left, text, root)
        if not fitting:
            _refuse(text, root, [*found, *left])
        chosen |= {name for name in fitting if everything or is_many(text) or name in left or not is_many(name)}
    if filters:
        found = {name: folder for name, folder in found.items() if name in chosen}
        left = {name: folder for name, folder in left.items() if name in chosen}
    return found, list(left)


def is_many(name: str) -> bool:
    """Whether a run, an experiment or a filter is of a sweep or a repeat."""
    return any(MANY.fullmatch(part) for part in name.split("/"))


def fits(folders: dict[str, Path], text: str, root: Path) -> set[str]:
    """The names that a filter means: a run's, its experiment's, or that of a folder or a link above it.

    Args:
        folders: By name.
        text: The filter. `*` and `?` are wild, unless a name has them; a bracket never is.
        root: Of all names.
    """
    text = text.strip("/")
    above = {name: ["/".join(name.split("/")[: k + 1]) for k in range(name.count("/") + 1)] for name in folders}
    if exact := {name for name, parts in above.items() if text in parts}:
        return exact
    if os.path.exists(root / text):  # noqa: PTH110, where pathlib fails at a long name
        place = (root / text).resolve()  # of a link
        return {name for name, folder in folders.items() if folder.is_relative_to(place)}
    pattern = text.replace("[", "[[]")
    return {name for name, parts in above.items() if any(fnmatchcase(part, pattern) for part in parts)}


def _walk(root: Path, deep: bool) -> Iterator[tuple[str, Path, bool]]:
    """Each run's name, folder without links and True; of each folder that is left out the same and False."""
    top = root.resolve()
    links = [("", top)]
    seen: set[Path] = set()
    for link in links:  # which grows; last of all, so that a run has the name of its own place
        inside = [link]
        for name, folder in inside:  # as well
            if folder in seen or (name and top.is_relative_to(folder)):
                continue
            seen.add(folder)
            if VERSION.fullmatch(name.rpartition("/")[2]):
                yield name, folder, True
            elif name and VERSION.fullmatch(folder.name):  # a link with a name of its own
                yield f"{name}/{folder.name}", folder, True
            elif MANY.fullmatch(name.rpartition("/")[2]) and not deep:
                yield name, folder, False
            else:
                above = f"{name}/" if name else ""
                try:
                    with os.scandir(folder) as entries:
                        for entry in sorted(filter(_is_folder, entries), key=lambda entry: entry.name):
                            path = Path(entry.path)
                            if entry.is_symlink():
                                links.append((above + entry.name, path.resolve()))
                            else:
                                inside.append((above + entry.name, path))
                except FileNotFoundError:  # deleted meanwhile
                    pass
                except OSError:
                    yield f"{above}* which cannot be read", folder, False


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False


def in_order(name: str) -> list[str | int]:
    """What sorts version_10 behind version_9; texts and numbers take turns."""
    parts = re.split(r"([0-9]+)", name)
    return [int(part) if number % 2 else part for number, part in enumerate(parts)]


def find_one(root: Path, text: str) -> tuple[str, Path]:
    """The run that a word names: `xor/version_3`, a path in its folder, or `xor` for its latest.

    Args:
        root: A folder, `runs`.
        text: The word. Ends the program where it names none.
    """
    top = Path(os.path.abspath(root))  # noqa: PTH100, without ..
    given = [os.path.expanduser(text), os.path.join(root, text)]  # noqa: PTH111, PTH118, where pathlib fails at ~name
    places = [Path(place) for place in given if os.path.exists(place)]  # noqa: PTH110, or at a long name
    behind = [place.resolve() for place in places]
    for there in (*(Path(os.path.abspath(place)) for place in places), *behind):  # noqa: PTH100
        for path in (there, *there.parents):
            inside = path.is_relative_to(top)
            # A project may lie in a folder version_2 that is no run.
            if VERSION.fullmatch(path.name) and (inside or (path / "config.yaml").is_file()):
                return (path.relative_to(top) if inside else path).as_posix(), path
    runs = find(root, [], everything=True)[0]
    text = text.strip("/")
    latest = [
        name
        for name, folder in runs.items()
        if text in (name, name.rpartition("/")[0]) or folder in behind or folder.parent in behind
    ]
    if not latest:
        _refuse(text, root, list(runs))
    name = max(latest, key=in_order)
    return name, runs[name]


def _refuse(text: str, root: Path, names: list[str]) -> None:
    paths = (name.rpartition("/") for name in names)
    experiments = sorted({above if VERSION.fullmatch(last) else above + slash + last for above, slash, last in paths})
    nearest = get_close_matches(text, [*experiments, *names], n=1)
    hint = f" Did you mean {nearest[0]}?" if nearest else ""
    shown = ", ".join(experiments[:20]) + (", ..." if len(experiments) > 20 else "")
    sys.exit(f"error: {text}: no such run or experiment under {root}; there are: {shown or 'none yet'}.{hint}")
