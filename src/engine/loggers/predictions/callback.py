"""What `predict` found: a table on the screen, predictions.csv and predictions.pt in the run's folder."""

import inspect
from collections.abc import Callable
from typing import Any

import torch
from lightning.fabric.utilities import move_data_to_device
from lightning.pytorch import LightningModule, Trainer

from src.engine.data.order import leaves
from src.engine.errors import UserError
from src.engine.loggers.predictions.files import PredictionFiles
from src.engine.loggers.predictions.outputs import Column, Outputs, by_sample, first_rows
from src.engine.loggers.predictions.parts import Part, Written, join
from src.engine.loggers.predictions.table import lines
from src.engine.paths import shorten
from src.engine.run.run import RunCallback


class PredictionsCsv(RunCallback):
    """Prints and writes each sample in the order of the data set, whatever the loader's order and number of processes.

    The column `sample` is the index in the data set of the loader, also where a loader sorts, buckets or shuffles; a
    sampler that draws an index twice gives two rows. Samples of a stream, and of a loader whose items hold several,
    are counted. Several loaders are numbered by the column `loader`, each has indices of its own.

    Takes whatever `predict_step` returns: tensors, tuples, lists, dicts and objects of them. A number is a column, up
    to 64 of them are columns; what is larger, or of another size in each sample, goes into predictions.pt, in the order
    of the rows. A data module with a method `prediction_rows(outputs, batch)` says what the rows of a batch hold: a
    list with a dict for each of its samples.

    Batches are written as they come; each process has a file of its own until the end.

    Args:
        max_printed: Rows on the screen; the file has them all.
    """

    def __init__(self, max_printed: int = 20) -> None:
        self.max_printed = max_printed
        self._part: Part | None = None

    def needed(self) -> bool:
        """Of `predict` alone."""
        return self.run.verb == "predict"

    def on_predict_start(self, trainer: Trainer, module: LightningModule) -> None:
        """Begin anew."""
        self._loaders = list(leaves(trainer.predict_dataloaders))
        self._rows = rows_method(getattr(trainer, "datamodule", None))
        self._outputs = Outputs()
        self._part = Part(self.run.folder / f".predictions-{trainer.global_rank}.part")

    def on_predict_batch_end(
        self,
        trainer: Trainer,
        module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Write a batch to this process's part."""
        if self._part is None or (outputs is None and self._rows is None):
            return
        loader = self._loaders[dataloader_idx]
        sample_indices = getattr(loader, "sample_indices", None)
        if sample_indices is None and trainer.world_size > 1:
            raise UserError(
                f"predict on {trainer.world_size} processes needs a DataLoader or a TensorLoader, got "
                f"{type(loader).__name__}: nobody knows the order of its samples."
            )
        indices = sample_indices(batch_idx) if sample_indices else torch.full((1,), batch_idx)
        columns = self._columns(outputs, batch, len(indices) if sample_indices else None)
        num_samples = max((len(column) for column in columns.values()), default=0)
        # Of a stream, or of a loader without batches whose items hold several samples, no sample has an index.
        counted = not sample_indices or len(indices) != num_samples
        self._part.add(dataloader_idx, indices[0].expand(num_samples) if counted else indices, columns, counted)

    def _columns(self, outputs: Any, batch: Any, expected: int | None) -> dict[str, Column]:
        if self._rows is None:
            return self._outputs.columns(outputs, expected, first_rows(batch))
        here = torch.device("cpu")
        rows = self._rows(move_data_to_device(outputs, here), move_data_to_device(batch, here))
        sizes = [size for size in (expected, first_rows(batch), first_rows(outputs)) if size is not None]
        if not isinstance(rows, list) or (sizes and len(rows) not in sizes):
            got = f"{len(rows)} rows" if isinstance(rows, list) else type(rows).__name__
            of = f" of {sizes[0]}" if sizes else ""
            raise UserError(
                f"prediction_rows(outputs, batch) returned {got} for a batch{of}: it has to return a list with a dict "
                "for each sample."
            )
        return by_sample(rows)

    def on_predict_end(self, trainer: Trainer, module: LightningModule) -> None:
        """Put the processes' parts together, print and write."""
        assert self._part is not None, "predict has begun"
        parts = [self._part.close()]
        self._part = None
        if trainer.world_size > 1:
            parts *= trainer.world_size
            torch.distributed.all_gather_object(parts, parts[0])
        if trainer.is_global_zero:
            try:
                self._write(parts)
            finally:
                for part in parts:
                    part.path.unlink(missing_ok=True)

    def _write(self, parts: list[Written]) -> None:
        total = join(parts)
        if total.kinds is None:
            return
        files = PredictionFiles(self.run.folder, total.kinds, self._rows is None, len(self._loaders) > 1)
        first = files.write(parts, total, self.max_printed)
        print("\n".join(lines(first)))
        if total.num_samples > self.max_printed:
            print(f"... and {total.num_samples - self.max_printed} more")
        if files.large:
            print(f"written to {shorten(files.pt)}: {', '.join(files.large)}")
        print(f"written to {shorten(files.csv)}")

    def on_exception(self, trainer: Trainer, module: LightningModule, exception: BaseException) -> None:
        """Leave no part behind."""
        if self._part is not None:
            self._part.discard()


def rows_method(datamodule: Any) -> Callable[[Any, Any], Any] | None:
    """A data module's own word on what the rows hold, if it has one.

    Raises:
        UserError: If it takes something else than the outputs and the batch.
    """
    method: Callable[[Any, Any], Any] | None = getattr(datamodule, "prediction_rows", None)
    if method is None:
        return None
    try:
        inspect.signature(method).bind(None, None)
    except TypeError as error:
        raise UserError(
            f"{type(datamodule).__name__}.prediction_rows{inspect.signature(method)} must be prediction_rows(outputs, "
            "batch): it is called for each batch with what predict_step returned and the batch, and returns a list "
            "with a dict for each sample."
        ) from error
    return method
