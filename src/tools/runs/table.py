"""Rows as text: columns as wide as they need to be, and not wider than the terminal."""

import os
import shutil
import sys


def width_here() -> int | None:
    """Of the terminal, or what COLUMNS says; None where the output goes to a file or another program."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() or os.environ.get("COLUMNS") else None


def cut(text: str, widest: int | None) -> str:
    """A text, without its end where it is too long."""
    return text if widest is None or len(text) <= widest else f"{text[: max(widest - 3, 1)]}..."
