"""Write what `predict` found: a table on the screen, predictions.csv and predictions.pt in the run's folder."""

import csv
import itertools
import shutil
from pathlib import PurePath
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
Columns = dict[str, Column]


class PredictionsCsv(RunCallback):
    """Prints and writes a row per sample, sorted by the data set's index, for any loader and number of processes.

    The column `sample` is that index; samples of a stream, or of items that hold several, are counted. Several loaders
    are numbered by the column `loader`.

    Takes tensors and lists with an entry per sample, and lists, dicts and objects of them. Up to 64 numbers of a name
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
        self._places: list[tuple[int, int]] = []  # loader and index of each row
        self._counted: set[int] = set()  # loaders whose rows have no index
        self._batches: list[Columns] = []
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
        indices = sample_indices(batch_idx).tolist() if sample_indices else [batch_idx]
        sizes = [*([len(indices)] if sample_indices else []), count_samples(batch)]
        if self._rows is not None:
            outputs = self._rows(*move_data_to_device((outputs, batch), torch.device("cpu")))
        columns = columns_of(outputs, sizes, self._batches[0] if self._batches else {})
        self._batches.append(columns)
        num_rows = len(next(iter(columns.values()), ()))
        if sample_indices is None or num_rows != len(indices):
            self._counted.add(number)
            indices = indices[:1] * num_rows
        self._places += [(number, index) for index in indices]
        self._num_bytes += sum(part.nbytes for part in parts(columns) if isinstance(part, Tensor))
        if self._num_bytes * trainer.world_size > self.max_gb * 1e9:
            raise UserError(
                f"predict: the outputs take more memory than --predictions.max_gb {self.max_gb:g}. Raise it, or write "
                "each batch at once: put a lightning.pytorch.callbacks.BasePredictionWriter into trainer.callbacks."
            )

    def on_predict_end(self, trainer: Trainer, module: LightningModule) -> None:
        """Gather the rows of all processes, sort, print and write them."""
        shares = [(self._places, self._batches)] * trainer.world_size
        self._batches = []
        if trainer.world_size > 1:
            torch.distributed.gather_object(shares[0], shares if trainer.is_global_zero else None)
        if trainer.is_global_zero and any(places for places, _ in shares):
            places, batches = (list(itertools.chain(*each)) for each in zip(*shares, strict=True))
            self._write(places, join(batches))

    def _write(self, places: list[tuple[int, int]], columns: Columns) -> None:
        order = sorted(range(len(places)), key=places.__getitem__)
        places = [places[k] for k in order]
        counters = {loader: itertools.count() for loader in self._counted}
        samples = [next(counters[loader]) if loader in counters else index for loader, index in places]
        large: Columns = {}
        table: dict[str, list[Any]] = {}
        for name, column in columns.items():
            column = column[order] if isinstance(column, Tensor) else [column[k] for k in order]
            if is_large(column):
                large[name] = column
            add(table, cells(name, column))
        # A column of the user's has precedence.
        table = ({"sample": samples} if self._rows is None or large else {}) | table
        table = ({"loader": [loader for loader, _ in places]} if len(self._loaders) > 1 else {}) | table
        path = self.run.folder / "predictions.csv"
        with write_whole(path) as part:
            with part.open("w", newline="", encoding="utf-8", errors="surrogateescape") as file:
                csv.writer(file).writerows([table, *zip(*table.values(), strict=True)])
            if large:
                with write_whole(path.with_suffix(".pt")) as other:
                    torch.save(large, other)
        print_table({name: values[: self.max_printed] for name, values in table.items()})
        if len(order) > self.max_printed:
            print(f"... and {len(order) - self.max_printed} more")
        if large:
            print(f"written to {shorten(path.with_suffix('.pt'))}: {', '.join(large)}")
        print(f"written to {shorten(path)}")


def columns_of(outputs: Any, sizes: list[int], known: Columns) -> Columns:
    """Return the outputs of a batch as columns on the CPU.

    Args:
        outputs: Of any form.
        sizes: Numbers of samples that the batch may have, the likeliest first.
        known: The columns of an earlier batch.

    Raises:
        UserError: If they cannot be split into samples, or have other names than the earlier batch.
    """
    for size in sizes:
        found = read(outputs, size, "", known)
        if all(len(column) == size for column in found.values()):
            if "" in found:
                found = {"score" if isinstance(found[""][0], Tensor) else "output": found[""]}
            check_names(known or found, found)
            return found
    raise UserError(
        f"predict returned {describe(outputs, is_pair=False)} for a batch of {sizes[0]}. Return tensors (B, ...) or "
        f"lists of B entries, several of them in a dict; or {ROWS}"
    )


def read(value: Any, size: int, name: str, known: Columns) -> Columns:
    """Return a part of the outputs as columns; one that does not fit the batch has another length."""
    fields = fields_of(value)
    if fields is None and isinstance(value, list | tuple):
        if are_samples(value, size, name or "output", known):
            rows = [inside(name, fields_of(sample) or {"": sample}) for sample in value]
            return join([{key: [on_cpu(part, key)] for key, part in row.items()} for row in rows])
        if not any(isinstance(part, Tensor | np.ndarray) for part in parts(value)):
            return {name: list(value)}
        name, fields = name or "output", dict(enumerate(value))
    if fields is not None:
        columns: Columns = {}
        for key, part in inside(name, fields).items():
            add(columns, {} if part is None else read(part, size, key, known))
        return columns
    value = on_cpu(value, name)
    # A number of the whole batch, as a mean loss is, stands in each row.
    if isinstance(value, Tensor):
        return {name: value if value.dim() else value.expand(size)}
    return {name: [value] * size}


def are_samples(values: Any, size: int, name: str, known: Columns) -> bool:
    """Return whether a list or a tuple, which mean the same, has an entry per sample.

    Tensors with B rows each are parts, as in `return logits, features`. If B of them have one shape they could also be
    samples: an earlier batch decides, and without any the batch is refused.
    """
    tensors = [part for part in parts(values) if isinstance(part, Tensor | np.ndarray) and part.ndim]
    are_parts = bool(tensors) and all(len(tensor) == size for tensor in tensors)
    if len(values) != size or not are_parts or all(fields_of(value) for value in values):
        return len(values) == size
    if known or size == 1:  # of one sample the numbers are the same
        return not any(each.startswith(f"{name}_0") for each in known)
    if len({getattr(value, "shape", None) for value in values}) == 1:
        raise UserError(
            f"predict_step returned {describe(values, is_pair=False)} for a batch of {size}: these could be {size} "
            f"samples or {size} parts. Return a dict of parts, or a list with a dict for each sample."
        )
    return False


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


def join(batches: list[Columns]) -> Columns:
    """Put the columns of several batches one below the other: a tensor if all entries have one shape, else a list."""
    columns: Columns = {}
    for batch in batches:
        check_names(batches[0], batch)
    for name in batches[0]:
        chunks: list[Any] = [batch[name] for batch in batches]
        if all(isinstance(chunk, Tensor) and chunk.shape[1:] == chunks[0].shape[1:] for chunk in chunks):
            columns[name] = torch.cat(chunks)
            continue
        entries = list(itertools.chain(*chunks))
        shapes = {entry.shape if isinstance(entry, Tensor) else None for entry in entries}
        if len(shapes) > 1 and None in shapes:
            raise UserError(f"predict: {name} is a tensor in one sample and a plain value in another. Choose one kind.")
        columns[name] = torch.stack(entries) if len(shapes) == 1 and None not in shapes else entries
    return columns


def check_names(first: Columns, other: Columns) -> None:
    """Raise a UserError if two batches, or two samples, have different names."""
    if first.keys() != other.keys():
        one, another = (", ".join(each) or "no keys" for each in (first, other))
        raise UserError(f"predict: one sample has {one}, another {another}. Give each the same keys, None for none.")


def add(columns: dict[str, Any], others: dict[str, Any]) -> None:
    """Add columns to others; raise a UserError if two have one name."""
    if same := columns.keys() & others.keys():
        raise UserError(f"predict: two columns have the name {min(same)}. Give one of the outputs another.")
    columns.update(others)


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


def print_table(table: dict[str, list[Any]]) -> None:
    """Print the header and the rows, each line cut where the terminal ends."""
    room = shutil.get_terminal_size((240, 24)).columns
    columns = []
    for name, values in table.items():
        column = [" ".join(str(value).split())[:MAX_LETTERS] for value in [name, *values]]
        columns.append([cell.ljust(max(map(len, column))) for cell in column])
    for row in zip(*columns, strict=True):
        print("  ".join(row)[:room].rstrip())
