"""What a process predicted, on disk batch by batch; and all processes' samples in the order of the data."""

import contextlib
import heapq
import io
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from src.engine.errors import UserError
from src.engine.loggers.predictions.kinds import Kind, kind_of
from src.engine.loggers.predictions.outputs import Column, different_keys

Key = tuple[int, int]  # the loader's number, the sample's index in its data set


@dataclass(frozen=True)
class Written:
    """What other processes have to know of a part.

    Attributes:
        path: The file.
        bounds: Where in it stretches of ascending keys begin and end.
        kinds: By name.
        num_samples: In it.
        counted: Numbers of the loaders whose samples have no index.
    """

    path: Path
    bounds: tuple[tuple[int, int], ...] = ()
    kinds: dict[str, Kind] | None = None
    num_samples: int = 0
    counted: frozenset[int] = frozenset()


class Part:
    """The file of one process: a batch follows the other.

    Args:
        path: The file; what stood there is lost.
    """

    def __init__(self, path: Path) -> None:
        self._file = path.open("wb")
        self._starts = [0]
        self._last: Key = (0, 0)
        self._written = Written(path)

    def add(self, loader: int, places: Tensor, columns: dict[str, Column], counted: bool = False) -> None:
        """Write a batch.

        Args:
            loader: Its number.
            places: (B,) int64, of the samples in the loader's data.
            columns: Each with B entries.
            counted: Whether the places are not the indices of samples.
        """
        if not len(places):
            return
        kinds = {name: kind_of(column, name) for name, column in columns.items()}
        added = replace(self._written, kinds=kinds, num_samples=len(places), counted=frozenset([loader] * counted))
        self._written = join([self._written, added])
        order = places.argsort(stable=True)
        if (loader, int(places[order[0]])) < self._last:
            self._starts.append(self._file.tell())
        self._last = (loader, int(places[order[-1]]))
        picked = {name: _pick(column, order) for name, column in columns.items()}
        buffer = io.BytesIO()
        torch.save({"loader": loader, "places": places[order], "columns": picked}, buffer)
        with writing(self._written.path):
            self._file.write(buffer.tell().to_bytes(8, "little"))
            self._file.write(buffer.getbuffer())

    def close(self) -> Written:
        """Finish the file; returns what is in it."""
        ends = [*self._starts[1:], self._file.tell()]
        with writing(self._written.path):
            self._file.close()
        return replace(self._written, bounds=tuple(zip(self._starts, ends, strict=True)))

    def discard(self) -> None:
        """Delete the file."""
        with contextlib.suppress(OSError):  # a full disk refuses the last bytes once more
            self._file.close()
        self._written.path.unlink(missing_ok=True)


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn what a disk refuses into a line."""
    try:
        yield
    except OSError as error:
        raise UserError(f"Cannot write {path}: {error.strerror or error}. No predictions were written.") from error


def _pick(column: Column, order: Tensor) -> Column:
    """Copies, lest a view's whole base is saved."""
    if isinstance(column, Tensor):
        return column[order]
    rows = (column[k] for k in order.tolist())
    return [row.clone() if isinstance(row, Tensor) else row for row in rows]


def join(parts: list[Written]) -> Written:
    """What several parts, or the batches of one, have in common.

    Raises:
        UserError: If they have different names.
    """
    total: dict[str, Kind] | None = None
    for part in parts:
        if part.kinds is None:
            continue
        if total is not None and total.keys() != part.kinds.keys():
            raise UserError(different_keys(total, part.kinds))
        total = {name: kind.join(total[name], name) if total else kind for name, kind in part.kinds.items()}
    counted = frozenset().union(*(part.counted for part in parts))
    return replace(parts[0], kinds=total, num_samples=sum(part.num_samples for part in parts), counted=counted)


def merge(parts: list[Written], kinds: dict[str, Kind]) -> Iterator[tuple[Key, dict[str, Any]]]:
    """All samples in the order of the data; of each ascending stretch one batch is in memory.

    Yields:
        The sample's key, and its entries by name: a plain value, a list of numbers, or a tensor.
    """
    runs = [_read(part.path, start, stop, kinds) for part in parts for start, stop in part.bounds]
    yield from heapq.merge(*runs, key=lambda sample: sample[0])


def _read(path: Path, start: int, stop: int, kinds: dict[str, Kind]) -> Iterator[tuple[Key, dict[str, Any]]]:
    while start < stop:
        with path.open("rb") as file:  # of a shuffled set each batch is a stretch: too many to keep the file open for
            file.seek(start)
            size = int.from_bytes(file.read(8), "little")
            batch = torch.load(io.BytesIO(file.read(size)), weights_only=True)
            start = file.tell()
        entries = [_entries(batch["columns"][name], kind) for name, kind in kinds.items()]
        for place, *values in zip(batch["places"].tolist(), *entries, strict=True):
            yield (batch["loader"], place), dict(zip(kinds, values, strict=True))


def _entries(column: Column, kind: Kind) -> Any:
    if kind.dtype is None or not kind.fits_columns:
        return column
    rows = column if isinstance(column, Tensor) else torch.stack([value.to(kind.dtype) for value in column])
    return rows.to(kind.dtype).flatten(1).tolist() if rows.dim() > 1 else rows.to(kind.dtype).unsqueeze(1).tolist()
