"""A CSV file that grows by a row, of which a resumed run keeps a part; a row costs the same, however many there are."""

import csv
import os
import sys
from collections.abc import Iterable
from itertools import islice
from pathlib import Path
from typing import Any

from src.engine.errors import UserError


class RowsFile:
    """Rows under names; a new name rewrites the file, and so does the first row after a resume.

    Args:
        path: Of the file. What it holds stays, unless a part of another comes first.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.num_rows = 0
        self.names: list[str] = []
        self._settled = False
        self._kept: tuple[Path, int, list[dict[str, Any]]] | None = None

    def begin_with(self, rows: list[dict[str, Any]]) -> None:
        """Replace by these rows what the file holds, once there is a reason to write."""
        names = list(dict.fromkeys(name for row in rows for name in row))
        self.num_rows, self.names, self._kept = len(rows), names, (self.path, 0, rows)

    def begin_with_part(self, source: Path, num_rows: int, names: list[str]) -> None:
        """Replace by the first rows of a file what this one holds, once there is a reason to write."""
        self.num_rows, self.names, self._kept = num_rows, names, (source, num_rows, [])

    def settle(self) -> None:
        """Write the rows that the file is to begin with."""
        rows = self._begin()
        if self.names:
            self._replace(rows)

    def add(self, row: dict[str, Any]) -> None:
        """Write a row.

        Raises:
            UserError: If the disk refuses it; what stood there is whole.
        """
        before = None if self._settled else self._begin()
        names = list(dict.fromkeys([*self.names, *row]))
        if before is None and names == self.names and self.path.is_file():
            self._append(row)
        else:
            before = read_rows(self.path, self.num_rows)[1] if before is None else before
            self.names = names
            self._replace([*before, row])
        self.num_rows += 1

    def _begin(self) -> list[dict[str, Any]]:
        """The rows that the file begins with; from now on it is known what it holds."""
        self._settled = True
        if self._kept is None:  # what another process of this run wrote, or an earlier stage
            self.names, rows = read_rows(self.path)
            self.num_rows = len(rows)
            return rows
        source, num_rows, rows = self._kept
        rows = rows or read_rows(source, num_rows)[1]
        if len(rows) < num_rows:
            there = f"{source} has" if source.is_file() else "beside the checkpoint there are"
            told = f"warning: the checkpoint has {num_rows} rows of metrics.csv, {there} {len(rows)}."
            print(f"{told} The others are lost.", file=sys.stderr, flush=True)
            self.num_rows = len(rows)
        return rows

    def _append(self, row: dict[str, Any]) -> None:
        size = self.path.stat().st_size
        try:
            with self.path.open("a", newline="", encoding="utf-8") as file:
                csv.DictWriter(file, self.names).writerow(row)
        except OSError as error:
            os.truncate(self.path, size)  # no half of a row
            raise self._refused(error) from error

    def _replace(self, rows: Iterable[dict[str, Any]]) -> None:
        # Whole and then moved: a kill amid the writing leaves the file of before.
        part = self.path.with_suffix(".part")
        try:
            with part.open("w", newline="", encoding="utf-8") as file:
                writer = csv.DictWriter(file, self.names)
                writer.writeheader()
                writer.writerows(rows)
            part.replace(self.path)
        except OSError as error:
            raise self._refused(error) from error

    def _refused(self, error: OSError) -> UserError:
        return UserError(f"Cannot write {self.path}: {error.strerror}. What stood there before is whole.")


def read_rows(path: Path, most: int | None = None) -> tuple[list[str], list[dict[str, Any]]]:
    """The names and the first rows of a file; none where there is no file."""
    if not path.is_file():
        return [], []
    with path.open(newline="", encoding="utf-8") as file:
        reader = csv.DictReader(file)
        rows = [{name: value for name, value in row.items() if value} for row in islice(reader, most)]
        return list(reader.fieldnames or []), rows
