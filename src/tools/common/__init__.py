"""Share code among the tools: one-line errors, whole files, text tables."""

import argparse
import contextlib
import csv
import io
import os
import sys
from collections.abc import Collection, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NoReturn

CONTROL = dict.fromkeys([*range(32), 127], " ")  # a name with a line break stays in its line


def refuse(message: str) -> NoReturn:
    """Exit with one line."""
    sys.exit(f"error: {message}")


def needs(packages: list[str], command: str) -> None:
    """Refuse to start without the packages of a tool; name the command that installs them."""
    if missing := [name for name in packages if find_spec(name) is None]:
        refuse(f"{', '.join(missing)}: not installed. Install what this tool needs: {command}")


class Parser(argparse.ArgumentParser):
    """Shows a module's docstring as it is written, and reports a mistake in one line."""

    def __init__(self, prog: str, **options: Any) -> None:
        defaults: dict[str, Any] = {"formatter_class": argparse.RawDescriptionHelpFormatter, "allow_abbrev": False}
        super().__init__(prog, **defaults | options)

    def error(self, message: str) -> NoReturn:
        refuse(f"{message}; see {self.prog} --help")


def write(path: Path, text: str) -> None:
    """Write a file whole or not at all."""
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    part.write_text(text, encoding="utf-8", newline="")
    part.replace(path)


def write_table(path: Path, rows: list[dict[str, Any]]) -> None:
    """Write a CSV whole or not at all; rows may have different columns."""
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, list(dict.fromkeys(name for row in rows for name in row)), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write(path, text.getvalue())


def lines_of(table: list[list[str]], right: Collection[int] = ()) -> list[str]:
    """Align rows of text in columns.

    Args:
        table: Rows of cells.
        right: Numbers of the columns that are aligned to the right: figures.
    """
    columns = []
    for number, column in enumerate(zip(*table, strict=True)):
        texts = [text.translate(CONTROL) for text in column]
        width = max(map(len, texts))
        columns.append([text.rjust(width) if number in right else text.ljust(width) for text in texts])
    return ["  ".join(row).rstrip() for row in zip(*columns, strict=True)]


@contextlib.contextmanager
def written_to(path: Path) -> Iterator[None]:
    """Send everything printed to a file, also by libraries in C and by signal handlers."""
    sys.stdout.flush()
    sys.stderr.flush()
    kept = [os.dup(number) for number in (1, 2)]
    with path.open("a", encoding="utf-8", errors="backslashreplace", buffering=1) as file:
        for number in (1, 2):
            os.dup2(file.fileno(), number)
        try:
            with contextlib.redirect_stdout(file), contextlib.redirect_stderr(file):
                yield
        finally:
            for number, old in zip((1, 2), kept, strict=True):
                os.dup2(old, number)
                os.close(old)
