"""Outputs too large or too uneven for a table: predictions.pt, filled sample by sample."""

import math
import struct
import zipfile
from contextlib import ExitStack
from pathlib import Path
from typing import IO, Any, Self

import torch
from torch import Tensor

from src.engine.loggers.predictions.kinds import Kind

Layout = dict[str, tuple[tuple[int, ...], torch.dtype]]  # shape and dtype, in the order of the file


class PredictionsPt:
    """A file for `torch.load(path, weights_only=True)`: a dict with an entry for each name.

    Index k belongs to row k of predictions.csv, whose column `sample` has the index in the data set. Where all samples
    have one shape, the entry is a tensor (N, ...). Where they differ it is a dict: `values` has the numbers of all,
    flat; those of row k lie from `offsets[k]` to `offsets[k + 1]`, its shape is `shapes[k]`, with -1 behind it where
    others have more dimensions. To read row k of the boxes of a detector:

        boxes = torch.load("predictions.pt", weights_only=True)["boxes"]
        shape = [size for size in boxes["shapes"][k].tolist() if size >= 0]
        row = boxes["values"][boxes["offsets"][k] : boxes["offsets"][k + 1]].view(shape)

    The file is laid out first and filled then, so that no more than a sample is in memory.

    Args:
        path: Of the file, which may not be there.
        kinds: By name.
        num_samples: N.
    """

    def __init__(self, path: Path, kinds: dict[str, Kind], num_samples: int) -> None:
        self._kinds = kinds
        self._ends = dict.fromkeys(kinds, 0)
        self._files: dict[str, list[IO[bytes]]] = {}
        self._close = ExitStack()
        layouts = {name: _layout(kind, num_samples) for name, kind in kinds.items()}
        _lay_out(path, layouts)
        starts = iter(_starts(path))
        for name, layout in layouts.items():
            self._files[name] = [self._close.enter_context(path.open("r+b")) for _ in layout]
            for file in self._files[name]:
                file.seek(next(starts))
            if "offsets" in layout:
                self._files[name][1].write(_bytes(torch.zeros(1, dtype=torch.int64)))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: Any) -> None:
        self._close.close()

    def add(self, entries: dict[str, Tensor]) -> None:
        """Write what the next sample has."""
        for name, value in entries.items():
            kind, files = self._kinds[name], self._files[name]
            files[0].write(_bytes(value.to(kind.dtype)))
            if kind.shape is None:
                self._ends[name] += value.numel()
                files[1].write(_bytes(torch.tensor([self._ends[name]])))
                files[2].write(_bytes(torch.tensor([*value.shape, *[-1] * (kind.num_dims - value.dim())])))


def _layout(kind: Kind, num_samples: int) -> Layout:
    assert kind.dtype is not None, "plain values stand in the table"
    if kind.shape is not None:
        return {"": ((num_samples, *kind.shape), kind.dtype)}
    return {
        "values": ((kind.num_values,), kind.dtype),
        "offsets": ((num_samples + 1,), torch.int64),
        "shapes": ((num_samples, kind.num_dims), torch.int64),
    }


def _lay_out(path: Path, layouts: dict[str, Layout]) -> None:
    """Save a file with room for the numbers, which are nowhere yet."""
    every = [part for layout in layouts.values() for part in layout.values()]
    hollow = path.with_suffix(".hollow")
    with hollow.open("wb") as file:
        file.truncate(max(math.prod(shape) * dtype.itemsize for shape, dtype in every))
    try:
        saved = {
            name: {key: _hollow(hollow, *part) for key, part in layout.items()} for name, layout in layouts.items()
        }
        with torch.serialization.skip_data():
            torch.save({name: parts.get("", parts) for name, parts in saved.items()}, path)
    finally:
        hollow.unlink()


def _hollow(path: Path, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """A tensor that takes no memory as long as nobody looks at it."""
    size = math.prod(shape)
    flat = torch.from_file(str(path), shared=True, size=size, dtype=dtype) if size else torch.empty(0, dtype=dtype)
    return flat.view(shape)


def _starts(path: Path) -> list[int]:
    """Where in the file the bytes of each tensor begin: torch's file is a ZIP of them, in the order of saving."""
    with zipfile.ZipFile(path) as archive:
        entries = [info for info in archive.infolist() if info.filename.rpartition("/")[0].endswith("/data")]
    starts = []
    with path.open("rb") as file:
        for entry in entries:
            file.seek(entry.header_offset + 26)  # the lengths of a name and of an extra field, which end the header
            starts.append(entry.header_offset + 30 + sum(struct.unpack("<HH", file.read(4))))
    return starts


def _bytes(value: Tensor) -> Any:
    """Of a tensor on the CPU, for a file."""
    return value.contiguous().flatten().view(torch.uint8).numpy()
