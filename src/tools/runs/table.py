"""Rows as text: columns as wide as they need to be, and not wider than the terminal."""

import os
import shutil
import sys

CONTROL = dict.fromkeys([*range(32), 127], " ")  # a name with a line end still is in its line


def width_here() -> int | None:
    """Of the terminal, or what COLUMNS says; None where the output goes to a file or another program."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() or os.environ.get("COLUMNS") else None


def lines_of(table: list[list[str]], right: set[int] | None = None) -> list[str]:
    """A line for each row.

    Args:
        table: Rows of cells.
        right: The columns that end in a line, by their number: figures.
    """
    table = [[text.translate(CONTROL) for text in row] for row in table]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    return [
        "  ".join(
            text.rjust(width) if number in (right or ()) else text.ljust(width)
            for number, (text, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in table
    ]


def cut(text: str, widest: int | None) -> str:
    """A text, without its end where it is too long."""
    return text if widest is None or len(text) <= widest else f"{text[: max(widest - 3, 1)]}..."
