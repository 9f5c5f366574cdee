"""Leave out what says nothing to a user, and show each warning once, in a line."""

import logging
import os
import re
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

# By the start of their text.
IDLE_WARNINGS = (
    # Lightning on torch's pytree. Lightning issue 21326, closed with a filter for Lightning's own tests.
    r"`isinstance\(treespec, LeafSpec\)` is deprecated",
    # It complains of the default of its own option.
    r"The number of training batches .* is smaller than the logging interval",
)
_pythons_own = warnings.showwarning
_shown: set[str] = set()


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

    The same words with other numbers, as for each fold, count as the same warning of a package, and only rank zero
    shows it. Python's filters act as before.
    """
    before = warnings.showwarning
    if before is not _show:  # else a program calls the command line
        _shown.clear()
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
) -> None:
    text = " ".join(re.sub(r"\(Triggered internally at .*?\)", "", str(message)).split())
    package = re.search(r"(?:site|dist)-packages[/\\](\w+)", filename)
    said = f"{package[1]}: {text}" if package else f"{text} ({Path(filename).name}:{lineno})"
    key = re.sub(r"\d+", "0", said) if package else said
    elsewhere = any(os.environ.get(rank, "0") != "0" for rank in ("RANK", "LOCAL_RANK", "SLURM_PROCID"))
    if key not in _shown and not (package and elsewhere):
        _shown.add(key)
        print(f"note: {said}", file=file or sys.stderr, flush=True)
