"""Write what `predict` found: a table on the screen, predictions.csv and predictions.pt in the run's folder."""

import csv
import itertools
import shutil
from collections.abc import Collection, Iterable
from pathlib import Path, PurePath
from typing import Any

import numpy as np
import torch
from lightning.fabric.utilities import move_data_to_device
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import BasePredictionWriter
from torch import Tensor

from src.engine.data.batches import count_samples, describe, fields_of, parts
from src.engine.data.order import flatten_loaders
from src.engine.errors import UserError
from src.engine.paths import shorten, write_whole
from src.engine.run.run import RunCallback

MAX_COLUMNS = 64  # numbers of one name that become columns of the table
MAX_LETTERS = 40  # of a value on the screen
ROWS = "write prediction_rows(outputs, batch) in the data module, which returns a list with a dict for each sample."

Column = Tensor | list[Any]  # (B, ...), or B plain values, or B tensors of different shapes
Batch = tuple[int, list[int], bool, dict[str, Column]]  # loader, B places, whether they are indices, columns by name


class PredictionsCsv(RunCallback):
    """Prints and writes a row per sample, sorted by the data set's index, for any loader and number of processes.

    The column `sample` is that index. A sampler that draws an index twice gives two rows. Samples of a stream, or of
    items that hold several, are counted. Several loaders are numbered by the column `loader`.

    Takes tensors and lists with an entry per sample, and tuples, dicts and objects of them. Up to 64 numbers of a name
    are columns. What is larger, or has another shape in each sample, goes into predictions.pt, in the order of the
    rows: `torch.load("predictions.pt", weights_only=True)[name]` is a tensor (N, ...), or a list of N tensors. A data
    module's `prediction_rows(outputs, batch)` decides itself what the rows hold: a list with a dict per sample.

    The outputs stay in memory until the end. A `BasePredictionWriter` in trainer.callbacks replaces this callback.

    Args:
        max_printed: Rows on the screen; the file has them all.
        max_gb: The most memory for the outputs of all processes, in 10^9 bytes.
    """

    def __init__(self, max_printed: int = 20, max_gb: float = 8.0) -> None:
        self.max_printed = max_printed
        self.max_gb = max_gb

    def needed(self) -> bool:
        """Return whether the verb is `predict`."""
        return self.run.verb == "predict"

    def on_predict_start(self, trainer: Trainer, module: LightningModule) -> None:
        self._loaders = flatten_loaders(trainer.predict_dataloaders)
        self._rows: Any = getattr(getattr(trainer, "datamodule", None), "prediction_rows", None)
        callbacks: list[Callback] = getattr(trainer, "callbacks", [])
        self._is_replaced = any(isinstance(callback, BasePredictionWriter) for callback in callbacks)
        self._batches: list[Batch] = []
        self._num_bytes = 0

    def on_predict_batch_end(
        self, trainer: Trainer, module: LightningModule, outputs: Any, batch: Any, batch_idx: int, number: int = 0
    ) -> None:
        if self._is_replaced or (outputs is None and self._rows is None):
            return
        sample_indices = getattr(self._loaders[number], "sample_indices", None)
        if sample_indices is None and trainer.world_size > 1:
            raise UserError(
                f"predict on {trainer.world_size} processes needs a DataLoader or a TensorLoader, got "
                f"{type(self._loaders[number]).__name__}: nobody knows the order of its samples."
            )
        places = sample_indices(batch_idx).tolist() if sample_indices else [batch_idx]
        sizes = [*([len(places)] if sample_indices else []), count_samples(batch)]
        columns = self._columns(outputs, batch, sizes)
        num_rows = len(next(iter(columns.values()), ()))
        are_indices = sample_indices is not None and num_rows == len(places)
        self._batches.append((number, places if are_indices else places[:1] * num_rows, are_indices, columns))
        refuse_other_names(self._batches[0][-1], columns)
        entries = itertools.chain.from_iterable(columns.values())
        self._num_bytes += sum(entry.nbytes for entry in entries if isinstance(entry, Tensor))
        if self._num_bytes * trainer.world_size > self.max_gb * 1e9:
            raise UserError(
                f"predict: the outputs take more memory than --predictions.max_gb {self.max_gb:g}. Raise it, or write "
                "each batch at once: put a lightning.pytorch.callbacks.BasePredictionWriter into trainer.callbacks."
            )

    def _columns(self, outputs: Any, batch: Any, sizes: list[int]) -> dict[str, Column]:
        if self._rows is None:
            return columns_of(outputs, sizes, self._batches[0][-1] if self._batches else ())
        here = torch.device("cpu")
        rows = self._rows(move_data_to_device(outputs, here), move_data_to_device(batch, here))
        if not isinstance(rows, list) or len(rows) not in sizes:
            got = f"{len(rows)} rows" if isinstance(rows, list) else type(rows).__name__
            raise UserError(f"prediction_rows returned {got} for a batch of {sizes[0]}. Do {ROWS}")
        return by_name(rows)

    def on_predict_end(self, trainer: Trainer, module: LightningModule) -> None:
        """Gather the rows of all processes, sort, print and write them."""
        shares, self._batches = [self._batches] * trainer.world_size, []
        if trainer.world_size > 1:
            torch.distributed.gather_object(shares[0], shares if trainer.is_global_zero else None)
        if trainer.is_global_zero and any(shares):
            self._write(list(itertools.chain(*shares)))

    def _write(self, batches: list[Batch]) -> None:
        rows = [(loader, place) for loader, places, *_ in batches for place in places]
        order = sorted(range(len(rows)), key=rows.__getitem__)
        rows = [rows[k] for k in order]
        columns: dict[str, Column] = {}
        for name, column in join([batch[-1] for batch in batches]).items():
            columns[name] = column[order] if isinstance(column, Tensor) else [column[k] for k in order]
        large = {name: column for name, column in columns.items() if is_large(column)}
        table: dict[str, list[Any]] = {}  # a column of the user's has precedence
        if len(self._loaders) > 1 and "loader" not in columns:
            table["loader"] = [loader for loader, _ in rows]
        if (self._rows is None or large) and "sample" not in columns:
            counters = {loader: itertools.count() for loader, _, are_indices, _ in batches if not are_indices}
            table["sample"] = [next(counters[loader]) if loader in counters else place for loader, place in rows]
        table = union([table, *(cells(name, column) for name, column in columns.items())])
        path = self.run.folder / "predictions.csv"
        write(path, table, large)
        print_table({name: values[: self.max_printed] for name, values in table.items()})
        if len(rows) > self.max_printed:
            print(f"... and {len(rows) - self.max_printed} more")
        if large:
            print(f"written to {shorten(path.with_suffix('.pt'))}: {', '.join(large)}")
        print(f"written to {shorten(path)}")


def columns_of(outputs: Any, sizes: list[int], known: Collection[str]) -> dict[str, Column]:
    """Return what `predict_step` returned for a batch as columns on the CPU.

    Args:
        outputs: Of any form.
        sizes: Numbers of samples that the batch may have, the likeliest first.
        known: The names of an earlier batch.
    """
    if (size := next((size for size in sizes if fits(outputs, size)), None)) is None:
        raise UserError(
            f"predict_step returned {describe(outputs, is_pair=False)} for a batch of {sizes[0]}. Return tensors "
            f"(B, ...) or lists of B entries, several of them in a dict; or {ROWS}"
        )
    found = read(outputs, size, "", known)
    return {name or ("score" if isinstance(each[0], Tensor) else "output"): each for name, each in found.items()}


def read(value: Any, size: int, name: str, known: Collection[str]) -> dict[str, Column]:
    """Return the columns of a part of the outputs, which has a name."""
    fields = fields_of(value)
    if fields is None and isinstance(value, list | tuple):
        if are_samples(value, size, name or "output", known):
            return by_name([inside(name, fields_of(sample) or {"": sample}) for sample in value])
        name, fields = name or "output", dict(enumerate(value))
    if fields is not None:
        named = inside(name, fields).items()
        return union(read(part, size, key, known) for key, part in named if part is not None)
    value = on_cpu(value, name)
    # A number of the whole batch, as a mean loss is, stands in each row.
    if isinstance(value, Tensor):
        return {name: value if value.dim() else value.expand(size)}
    return {name: [value] * size}


def are_samples(values: Any, size: int, name: str, known: Collection[str]) -> bool:
    """Return whether a list or a tuple, which mean the same, holds samples or else parts.

    If each entry is, or holds, a tensor with B rows, they are parts, as in `return logits, features`. Otherwise B
    entries are samples, as in a list of dicts. B tensors of one shape with B rows could be either: an earlier batch
    decides, and without any the batch is refused.
    """
    if len(values) != size or not are_parts(values, size) or all(fields_of(value) for value in values):
        return len(values) == size
    if known or size == 1:  # of one sample the numbers are the same
        return not any(each.startswith(f"{name}_0") for each in known)
    if len({value.shape if isinstance(value, Tensor) else type(value) for value in values}) == 1:
        raise UserError(
            f"predict_step returned {describe(values, is_pair=False)} for a batch of {size}: these could be {size} "
            f"samples or {size} parts. Return a dict of parts, or a list with a dict for each sample."
        )
    return False


def fits(value: Any, size: int) -> bool:
    """Return whether a value can be split into `size` samples."""
    if isinstance(value, Tensor | np.ndarray):
        return value.ndim == 0 or len(value) == size
    if (fields := fields_of(value)) is not None:
        return all(fits(part, size) for part in fields.values())
    return not isinstance(value, list | tuple) or len(value) == size or are_parts(value, size)


def are_parts(values: Any, size: int) -> bool:
    """Return whether each value fits, and somewhere lies a tensor with rows."""
    tensors = [part for part in parts(values) if isinstance(part, Tensor | np.ndarray)]
    return any(tensor.ndim for tensor in tensors) and all(fits(value, size) for value in values)


def inside(name: str, fields: dict[Any, Any]) -> dict[str, Any]:
    """Return the fields under the name of what they lie in."""
    return {"_".join(filter(None, [name, str(key)])): part for key, part in fields.items()}


def on_cpu(value: Any, name: str) -> Any:
    """Return a copy of a tensor on the CPU, or a plain value as it is; a list of numbers is a vector."""
    if isinstance(value, np.ndarray | np.generic) and value.dtype.kind in "biufc":
        value = torch.as_tensor(value)
    elif isinstance(value, list | tuple) and all(isinstance(each, int | float) for each in value):
        value = torch.tensor(value)
    if isinstance(value, Tensor) and value.layout == torch.strided and not value.is_nested:
        return value.detach().to("cpu", copy=True)  # predict_step may reuse its buffers
    if value is None or isinstance(value, str | int | float | PurePath):
        return value
    raise UserError(f"predict: {name or 'output'} is {describe(value)}. Return tensors, numbers and texts; or {ROWS}")


def by_name(samples: list[dict[str, Any]]) -> dict[str, Column]:
    """Return the columns of samples."""
    return join([{name: [on_cpu(value, name)] for name, value in sample.items()} for sample in samples])


def join(batches: list[dict[str, Column]]) -> dict[str, Column]:
    """Put the columns of several batches, which must have the same names, one below the other."""
    for batch in batches:
        refuse_other_names(batches[0], batch)
    return {name: stack([batch[name] for batch in batches], name) for name in batches[0]}


def stack(chunks: list[Column], name: str) -> Column:
    """Return a tensor where all entries have one shape, else a list of them."""
    tensors = [chunk for chunk in chunks if isinstance(chunk, Tensor)]
    if len(tensors) == len(chunks) and len({tensor.shape[1:] for tensor in tensors}) == 1:
        return torch.cat(tensors)
    entries = list(itertools.chain(*chunks))
    tensors = [entry for entry in entries if isinstance(entry, Tensor)]
    if 0 < len(tensors) < len(entries):
        raise UserError(f"predict: {name} is a tensor in one sample and a plain value in another. Give each one kind.")
    return torch.stack(tensors) if len({tensor.shape for tensor in tensors}) == 1 else entries


def refuse_other_names(first: dict[str, Any], other: dict[str, Any]) -> None:
    """Raise a UserError if two batches, or two samples, have different names."""
    if first.keys() != other.keys():
        one, another = (", ".join(each) or "no keys" for each in (first, other))
        raise UserError(
            f"predict: one sample has {one}, another {another}. Give each the same keys, with None for none."
        )


def union(groups: Iterable[dict[str, Any]]) -> dict[str, Any]:
    """Return the columns of all groups; raise a UserError if two have one name."""
    found: dict[str, Any] = {}
    for name, column in itertools.chain.from_iterable(group.items() for group in groups):
        if name in found:
            raise UserError(f"predict: two columns have the name {name}. Give one of the outputs another.")
        found[name] = column
    return found


def is_large(column: Column) -> bool:
    """Return whether a column belongs into predictions.pt."""
    if isinstance(column, Tensor):
        return column.is_complex() or not 1 <= column[0].numel() <= MAX_COLUMNS
    return isinstance(column[0], Tensor)


def cells(name: str, column: Column) -> dict[str, list[Any]]:
    """Return the columns of the table: the shapes of what is large, of other numbers six digits."""
    if is_large(column):
        return {name: ["x".join(map(str, entry.shape)) or "1" for entry in column]}
    if not isinstance(column, Tensor):
        return {name: column}
    numbers = [
        [float(f"{value:.6g}") if isinstance(value, float) else value for value in values]
        for values in column.reshape(len(column), -1).T.tolist()
    ]
    return {name: numbers[0]} if len(numbers) == 1 else inside(name, dict(enumerate(numbers)))


def write(path: Path, table: dict[str, list[Any]], large: dict[str, Column]) -> None:
    """Write predictions.csv, after predictions.pt where something is large."""
    try:
        with write_whole(path) as part, part.open("w", newline="", encoding="utf-8", errors="surrogateescape") as text:
            csv.writer(text).writerows([table, *zip(*table.values(), strict=True)])
            if large:
                with write_whole(path.with_suffix(".pt")) as other, other.open("wb") as file:
                    torch.save(large, file)
    except OSError as error:
        raise UserError(f"Cannot write {path}: {error.strerror or error}. No predictions were written.") from error


def print_table(table: dict[str, list[Any]]) -> None:
    """Print the header and the rows, each line cut where the terminal ends."""
    room = shutil.get_terminal_size((240, 24)).columns
    columns = []
    for name, values in table.items():
        column = [" ".join(str(value).split())[:MAX_LETTERS] for value in [name, *values]]
        columns.append([cell.ljust(max(map(len, column))) for cell in column])
    for row in zip(*columns, strict=True):
        print("  ".join(row)[:room].rstrip())
