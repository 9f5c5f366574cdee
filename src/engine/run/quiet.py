"""Leaves out what says nothing to a user, and shows each warning once, in a line."""

import hashlib
import logging
import mmap
import os
import re
import sys
import sysconfig
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

# By the start of their text.
IDLE_WARNINGS = (
    # Lightning on torch's pytree. Lightning issue 21326, closed with a filter for Lightning's own tests.
    r"`isinstance\(treespec, LeafSpec\)` is deprecated",
    # It complains of the default of its own option.
    r"The number of training batches .* is smaller than the logging interval",
)
ENGINE = Path(__file__).parent
STANDARD = Path(sysconfig.get_path("stdlib"))
RANKS = ("RANK", "LOCAL_RANK", "SLURM_PROCID")

_pythons_own = warnings.showwarning
# A number of marks, and a mark for each warning that was shown: workers that are forked write here, too.
_shown = mmap.mmap(-1, 8 * 4096)


class Quiet:
    """Leaves out what Lightning reports of its own workings, and warnings that a user can do nothing about.

    Args:
        enabled: Turn off to see everything, and where a warning comes from.
    """

    def __init__(self, enabled: bool = True) -> None:
        if enabled:
            for name in ("lightning.pytorch", "lightning.fabric"):
                logging.getLogger(name).setLevel(logging.WARNING)
            for text in IDLE_WARNINGS:
                warnings.filterwarnings("ignore", text)
        else:
            warnings.showwarning = _pythons_own


@contextmanager
def warnings_in_one_line() -> Iterator[None]:
    """Show each warning once within the block: "note: matplotlib: ..." of a package, "note: ... (net.py:12)" of yours.

    What a package warns of with other numbers, as for each fold, counts as the same, and only rank zero shows it. Yours
    are the same if their text is. Each process of a run shows its own, forked workers show none again. Python's filters
    act as before.
    """
    before = warnings.showwarning
    if before is _show:  # a program that calls the command line
        yield
        return
    _shown[:8] = bytes(8)
    warnings.showwarning = _show
    try:
        yield
    finally:
        warnings.showwarning = before


def _show(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> Any:
    text = " ".join(re.sub(r"\(Triggered internally at .*?\)", "", str(message)).split())
    path = Path(filename)
    package = _package_of(path)
    if package and any(os.environ.get(rank, "0") != "0" for rank in RANKS):
        return
    if package:
        said = f"{package}: {text}"
    else:
        said = text if ENGINE in path.parents or not path.exists() else f"{text} ({path.name}:{lineno})"
    key = re.sub(r"\d+", "0", said) if package else said
    if _is_new(key):
        print(f"note: {said}", file=file or sys.stderr, flush=True)


def _is_new(key: str) -> bool:
    """Whether a warning is shown for the first time; from now on it is not."""
    mark = hashlib.blake2b(key.encode(errors="replace"), digest_size=8).digest()
    end = 8 + 8 * int.from_bytes(_shown[:8])
    if any(_shown[place : place + 8] == mark for place in range(8, end, 8)):
        return False
    if end < len(_shown):
        _shown[end : end + 8] = mark
        _shown[:8] = (end // 8).to_bytes(8)
    return True


def _package_of(path: Path) -> str:
    """Return the name of the package that a file belongs to; nothing of a user's own."""
    for place in ("site-packages", "dist-packages"):
        if place in path.parts:
            return path.parts[path.parts.index(place) + 1].removesuffix(".py")
    return path.relative_to(STANDARD).parts[0].removesuffix(".py") if STANDARD in path.parents else ""
