"""Write what `predict` found: a table on the screen, predictions.csv and predictions.pt in the run's folder."""

import csv
import itertools
import shutil
from collections.abc import Mapping
from numbers import Number
from pathlib import PurePath
from typing import Any

import torch
from lightning.fabric.utilities import move_data_to_device
from lightning.pytorch import LightningModule, Trainer
from lightning_utilities.core.apply_func import apply_to_collection
from torch import Tensor

from src.engine.data.batches import count_samples, describe, parts
from src.engine.data.order import flatten_loaders
from src.engine.errors import UserError
from src.engine.paths import shorten, write_whole
from src.engine.processes import gather
from src.engine.run.run import RunCallback

MAX_COLUMNS = 64  # numbers of one name that become columns of the table
MAX_PRINTED = 20  # rows on the screen

Column = Tensor | list[Any]  # (B, ...), or a list of B plain values or tensors
Columns = dict[str, Column]


class PredictionsCsv(RunCallback):
    """Prints and writes a row per sample, sorted by the data set's index, for any loader and number of processes.

    The column `sample` is that index; samples of a stream, or of items that hold several, are counted. Several loaders
    are numbered by the column `loader`.

    Takes a tensor (B, ...), a list of B entries, a flat dict of these, or a list with a flat dict per sample. Up to 64
    numbers of a name are columns. What is larger, or has another shape in each sample, goes into predictions.pt, in
    the order of the rows: `torch.load("predictions.pt", weights_only=True)[name]` is a tensor (N, ...), or a list of N
    tensors. For any other output write `prediction_rows(outputs, batch)` in the data module: it returns a list with a
    dict per sample.

    The outputs stay in memory until the end. A `BasePredictionWriter` in trainer.callbacks replaces this callback.

    Args:
        max_gb: The most memory for the outputs of all processes, in 10^9 bytes.
    """

    def __init__(self, max_gb: float = 8.0) -> None:
        self.max_gb = max_gb

    def needed(self) -> bool:
        """Return whether the verb is `predict`."""
        return self.run.verb == "predict"

    def on_predict_start(self, trainer: Trainer, module: LightningModule) -> None:
        self._loaders = flatten_loaders(trainer.predict_dataloaders)
        self._rows: Any = getattr(getattr(trainer, "datamodule", None), "prediction_rows", None)
        self._places: list[tuple[int, int]] = []  # loader and index of each row
        self._counted: set[int] = set()  # loaders whose rows have no index
        self._batches: list[Columns] = []
        self._num_bytes = 0

    def on_predict_batch_end(
        self, trainer: Trainer, module: LightningModule, outputs: Any, batch: Any, batch_idx: int, number: int = 0
    ) -> None:
        if outputs is None and self._rows is None:
            return
        sample_indices = getattr(self._loaders[number], "sample_indices", None)
        if sample_indices is None and trainer.world_size > 1:
            order = f"nobody knows the order of its samples in a {type(self._loaders[number]).__name__}"
            raise UserError(f"predict on several processes needs a DataLoader or a TensorLoader: {order}.")
        indices = sample_indices(batch_idx).tolist() if sample_indices else []
        if self._rows is not None:
            outputs = self._rows(*move_data_to_device((outputs, batch), torch.device("cpu")))
        columns = columns_of(outputs, len(indices) or count_samples(batch), count_samples(batch))
        if self._batches and (names := self._batches[0].keys()) != columns.keys():
            both = f"{', '.join(names)}, another {', '.join(columns)}"
            raise UserError(f"predict: one batch has {both}. Give each the same names.")
        self._batches.append(columns)
        num_rows = len(next(iter(columns.values())))
        if num_rows != len(indices):
            self._counted.add(number)
            indices = [indices[0] if indices else batch_idx] * num_rows
        self._places += [(number, index) for index in indices]
        self._num_bytes += sum(part.nbytes for part in parts(columns) if isinstance(part, Tensor))
        if self._num_bytes * trainer.world_size > self.max_gb * 1e9:
            raise UserError(
                f"predict: the outputs take more memory than --predictions.max_gb {self.max_gb:g}. Raise it, or write "
                "each batch at once: put a lightning.pytorch.callbacks.BasePredictionWriter into trainer.callbacks."
            )

    def on_predict_end(self, trainer: Trainer, module: LightningModule) -> None:
        """Gather the rows of all processes, sort, print and write them."""
        shares = gather((self._places, self._batches), trainer.world_size)
        self._batches = []
        places, batches = (list(itertools.chain(*each)) for each in zip(*shares, strict=True))
        if trainer.is_global_zero and places:
            self._write(places, {name: join([batch[name] for batch in batches]) for name in batches[0]})

    def _write(self, places: list[tuple[int, int]], columns: Columns) -> None:
        order = sorted(range(len(places)), key=places.__getitem__)
        table: dict[str, list[Any]] = {}
        large: Columns = {}
        for name, column in columns.items():
            column = column[order] if isinstance(column, Tensor) else [column[k] for k in order]
            found = cells(name, column)
            if found is None:
                large[name] = column
                found = {name: ["x".join(map(str, getattr(entry, "shape", ()))) for entry in column]}
            if same := table.keys() & found.keys():
                raise UserError(f"predict: two columns have the name {min(same)}. Give one of the outputs another.")
            table |= found
        places = [places[k] for k in order]
        if self._rows is None or large:
            counters = {loader: itertools.count() for loader in self._counted}
            samples = [next(counters[loader]) if loader in counters else index for loader, index in places]
            table = {"sample": samples} | table  # a column of the user's has precedence
        if len(self._loaders) > 1:
            table = {"loader": [loader for loader, _ in places]} | table
        print_table({name: values[:MAX_PRINTED] for name, values in table.items()})
        if len(order) > MAX_PRINTED:
            print(f"... and {len(order) - MAX_PRINTED} more")
        path = self.run.folder / "predictions.csv"
        if large:
            with write_whole(path.with_suffix(".pt")) as part:
                torch.save(large, part)
            print(f"written to {shorten(path.with_suffix('.pt'))}: {', '.join(large)}")
        with write_whole(path) as part, part.open("w", newline="", encoding="utf-8", errors="surrogateescape") as file:
            csv.writer(file).writerows([table, *zip(*table.values(), strict=True)])
        print(f"written to {shorten(path)}")


def columns_of(outputs: Any, *sizes: int) -> Columns:
    """Return the outputs of a batch as columns on the CPU.

    Args:
        outputs: A tensor, a list, a flat dict of these, or a list of flat dicts.
        sizes: Numbers of samples that the batch may have, the likeliest first.

    Raises:
        UserError: If they are none of these, or do not have an entry for each sample.
    """
    named = outputs if isinstance(outputs, Mapping) else {"score" if isinstance(outputs, Tensor) else "output": outputs}
    if isinstance(outputs, list) and outputs and all(isinstance(row, Mapping) for row in outputs):
        names = dict.fromkeys(name for row in outputs for name in row)
        named = {name: [row.get(name) for row in outputs] for name in names}
    columns = {str(name): column_of(part) for name, part in named.items()}
    lengths = {len(column) for column in columns.values()}
    if len(lengths) != 1 or not lengths <= set(sizes):
        raise UserError(
            f"predict returned {describe(outputs, is_pair=False)} for a batch of {sizes[0]}. Return a tensor (B, ...), "
            "a list of B entries, or a flat dict of these; or write prediction_rows(outputs, batch) in the data "
            "module, which returns a list with a dict for each sample."
        )
    # predict_step may reuse its buffers.
    copies: Columns = apply_to_collection(columns, Tensor, lambda part: part.detach().to("cpu", copy=True))
    return copies


def column_of(part: Any) -> Column:
    """Return a tensor or a list as it is, and a tuple of texts, which `default_collate` makes, as a list.

    Anything else is an empty list. A tuple of tensors could be parts or samples.
    """
    if isinstance(part, Tensor):
        return part if part.dim() else []
    plain = (str, Number, PurePath, type(None))
    kinds = (Tensor, *plain) if isinstance(part, list) else plain
    fits = isinstance(part, list | tuple) and all(isinstance(entry, kinds) for entry in part)
    return list(part) if fits else []


def join(chunks: list[Column]) -> Column:
    """Put the entries of several batches one below the other: a tensor if all have one shape, else a list."""
    tensors = [chunk for chunk in chunks if isinstance(chunk, Tensor)]
    if len(tensors) == len(chunks) and len({tensor.shape[1:] for tensor in tensors}) == 1:
        return torch.cat(tensors)
    entries = list(itertools.chain(*chunks))
    shapes = {entry.shape if isinstance(entry, Tensor) else None for entry in entries}
    return torch.stack(entries) if len(shapes) == 1 and None not in shapes else entries


def cells(name: str, column: Column) -> dict[str, list[Any]] | None:
    """Return the columns of the table, numbers with six digits; None for what belongs into predictions.pt."""
    if not isinstance(column, Tensor):
        return None if any(isinstance(entry, Tensor) for entry in column) else {name: column}
    if not 1 <= column[0].numel() <= MAX_COLUMNS:
        return None
    numbers = [
        [float(f"{value:.6g}") if isinstance(value, float) else value for value in values]
        for values in column.reshape(len(column), -1).T.tolist()
    ]
    return {name: numbers[0]} if len(numbers) == 1 else {f"{name}_{k}": values for k, values in enumerate(numbers)}


def print_table(table: dict[str, list[Any]]) -> None:
    """Print the header and the rows, each line cut where the terminal ends."""
    width = shutil.get_terminal_size((240, 24)).columns
    columns = [[" ".join(str(value).split()) for value in (name, *values)] for name, values in table.items()]
    for row in zip(*([cell.ljust(max(map(len, column))) for cell in column] for column in columns), strict=True):
        print("  ".join(row)[:width].rstrip())
