"""Leave out what says nothing to a user, and show each warning once, in a line."""

import logging
import os
import re
import warnings
from pathlib import Path

# By the start of their text.
IDLE_WARNINGS = (
    # Lightning on torch's pytree. Lightning issue 21326, closed with a filter for Lightning's own tests.
    r"`isinstance\(treespec, LeafSpec\)` is deprecated",
    # It complains of the default of its own option.
    r"The number of training batches .* is smaller than the logging interval",
)
_before = warnings.formatwarning
_shown: set[str] = set()


class Quiet:
    """Leaves out what Lightning reports of its own workings, and shows each warning once, in a line.

    Args:
        enabled: Turn off to see everything, and where a warning comes from.
    """

    def __init__(self, enabled: bool = True) -> None:
        warnings.formatwarning = in_one_line if enabled else _before
        if enabled:
            for name in ("lightning.pytorch", "lightning.fabric"):
                logging.getLogger(name).setLevel(logging.WARNING)
            for text in IDLE_WARNINGS:
                warnings.filterwarnings("ignore", text)


def in_one_line(
    message: Warning | str, category: type[Warning], filename: str, lineno: int, line: str | None = None
) -> str:
    """Format a warning: "note: matplotlib: ..." of a package, "note: ... (net.py:12)" of yours; nothing a second time.

    The same words with other numbers, as for each fold, count as the same warning of a package, and only rank zero
    shows it.
    """
    text = " ".join(re.sub(r"\(Triggered internally at .*?\)", "", str(message)).split())
    package = re.search(r"(?:site|dist)-packages[/\\](\w+)", filename)
    said = f"{package[1]}: {text}" if package else f"{text} ({Path(filename).name}:{lineno})"
    key = re.sub(r"\d+", "0", said) if package else said
    if key in _shown or (package and os.environ.get("LOCAL_RANK", "0") != "0"):
        return ""
    _shown.add(key)
    return f"note: {said}\n"
