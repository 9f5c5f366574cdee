"""The files of a `predict`: predictions.csv, and predictions.pt for what does not fit into it."""

import csv
import itertools
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from src.engine.errors import UserError
from src.engine.loggers.predictions.kinds import Kind
from src.engine.loggers.predictions.parts import Written, merge, writing
from src.engine.loggers.predictions.pt import PredictionsPt


class PredictionFiles:
    """Both, written sample by sample.

    Args:
        folder: The run's.
        kinds: Of the entries, by name.
        numbered: Whether a row begins with the sample's number; it does where one has to look into predictions.pt.
        several: Whether a row begins with the loader's number.

    Raises:
        UserError: If two columns have one name.
    """

    def __init__(self, folder: Path, kinds: dict[str, Kind], numbered: bool, several: bool) -> None:
        self.csv, self.pt = folder / "predictions.csv", folder / "predictions.pt"
        self.kinds = kinds
        self.large = {name: kind for name, kind in kinds.items() if kind.dtype is not None and not kind.fits_columns}
        # What the user names so has precedence.
        self._several = several and "loader" not in kinds
        self._numbered = (numbered or bool(self.large)) and "sample" not in kinds
        self._header = ["loader"] * self._several + ["sample"] * self._numbered
        self._header += [column for name in kinds for column in self._columns(name)]
        if twice := [column for column in self._header if self._header.count(column) > 1]:
            raise UserError(f"predict: two columns have the name {twice[0]}. Give one of the outputs another name.")

    def _columns(self, name: str) -> list[str]:
        size = self.kinds[name].size
        return [name] if name in self.large or size == 1 else [f"{name}_{k}" for k in range(size)]

    def write(self, parts: list[Written], total: Written, num_first: int) -> list[list[str]]:
        """Write all samples, first beside and then into place: a kill leaves no half of a file.

        Args:
            parts: Of all processes.
            total: What they have in common.
            num_first: How many rows to return.

        Returns:
            The header and the first rows.
        """
        beside = {path: path.with_name(f".{path.name}.part") for path in (self.pt, self.csv)}
        try:
            with writing(self.csv):
                first = self._write(beside, parts, total, num_first)
                for path, part in beside.items():
                    if part.exists():
                        part.replace(path)
        finally:
            for part in beside.values():
                part.unlink(missing_ok=True)
        return first

    def _write(self, to: dict[Path, Path], parts: list[Written], total: Written, num_first: int) -> list[list[str]]:
        first = [self._header]
        counters: dict[int, Iterator[int]] = {loader: itertools.count() for loader in total.counted}
        with ExitStack() as stack:
            writer = csv.writer(
                stack.enter_context(to[self.csv].open("w", newline="", encoding="utf-8", errors="surrogateescape"))
            )
            large = (
                stack.enter_context(PredictionsPt(to[self.pt], self.large, total.num_samples)) if self.large else None
            )
            writer.writerow(self._header)
            for (loader, index), entries in merge(parts, self.kinds):
                row = self._row(next(counters[loader]) if loader in counters else index, loader, entries)
                writer.writerow(row)
                if len(first) <= num_first:
                    first.append(list(map(str, row)))
                if large is not None:
                    large.add({name: entries[name] for name in self.large})
        return first

    def _row(self, number: int, loader: int, entries: dict[str, Any]) -> list[Any]:
        row: list[Any] = [loader] * self._several + [number] * self._numbered
        for name, kind in self.kinds.items():
            value = entries[name]
            if name in self.large:
                row.append("x".join(map(str, value.shape)) or "1")
            elif kind.dtype is None:
                row.append(value)
            else:
                row += map(_short, value)
        return row


def _short(value: float) -> float:
    """To six digits; a whole number as it is."""
    return float(f"{value:.6g}") if isinstance(value, float) else value
