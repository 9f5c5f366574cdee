"""What `predict` found: a table on the screen, predictions.csv in the run's folder."""

import csv
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor

from src.engine.errors import UserError
from src.engine.run import RunCallback


class PredictionsCsv(RunCallback):
    """Prints and writes each sample once, in the order of the data, whatever the number of processes.

    A data module with a method `prediction_rows(scores)` says what a row holds; without it a row is the sample's number
    and its scores.

    Args:
        max_printed: Rows on the screen; the file has them all.
    """

    def __init__(self, max_printed: int = 20) -> None:
        self.max_printed = max_printed
        # Of each batch: the loader's number, the places of its samples in the data, their scores.
        self._batches: list[tuple[int, Tensor, Tensor]] = []

    def needed(self) -> bool:
        """Of `predict` alone."""
        return self.run.verb == "predict"

    def on_predict_start(self, trainer: Trainer, module: LightningModule) -> None:
        """Begin anew."""
        self._batches = []
        loaders = trainer.predict_dataloaders
        self._loaders = loaders if isinstance(loaders, list) else [loaders]

    def on_predict_batch_end(
        self,
        trainer: Trainer,
        module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Keep a batch."""
        scores = outputs.float().cpu()
        ordinals = getattr(self._loaders[dataloader_idx], "ordinals", None)
        if ordinals is None and trainer.world_size > 1:
            raise UserError(
                f"predict on {trainer.world_size} processes needs a DataLoader or a TensorLoader, got "
                f"{type(self._loaders[dataloader_idx]).__name__}: nobody knows the order of its samples."
            )
        places = ordinals(batch_idx) if ordinals else torch.full((1,), batch_idx)
        if len(places) != len(scores):  # a loader without batches, whose items hold several samples
            places = places[0].expand(len(scores))
        self._batches.append((dataloader_idx, places, scores))

    def on_predict_end(self, trainer: Trainer, module: LightningModule) -> None:
        """Put the ranks' shares together, print and write."""
        shares = self._batches
        if trainer.world_size > 1:
            gathered: list[Any] = [None] * trainer.world_size
            torch.distributed.all_gather_object(gathered, self._batches)
            shares = [entry for share in gathered for entry in share]
        if not trainer.is_global_zero or not shares:
            return
        keys = [(loader, place) for loader, places, _ in shares for place in places.tolist()]
        order = sorted(range(len(keys)), key=keys.__getitem__)
        scores = torch.cat([scores for _, _, scores in shares])[order]
        describe = getattr(getattr(trainer, "datamodule", None), "prediction_rows", plain_rows)
        rows = describe(scores)
        if len(self._loaders) > 1:
            rows = [{"loader": keys[k][0]} | row for k, row in zip(order, rows, strict=True)]
        path = self.run.folder / "predictions.csv"
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, rows[0])
            writer.writeheader()
            writer.writerows(rows)
        table = [list(rows[0]), *(list(map(str, row.values())) for row in rows[: self.max_printed])]
        widths = [max(map(len, column)) for column in zip(*table, strict=True)]
        for line in table:
            print("  ".join(value.ljust(width) for value, width in zip(line, widths, strict=True)).rstrip())
        if len(rows) > self.max_printed:
            print(f"... and {len(rows) - self.max_printed} more")
        print(f"written to {path}")


def plain_rows(scores: Tensor) -> list[dict[str, Any]]:
    """The number of each sample, and its scores.

    Args:
        scores: (N, ...) float32.
    """
    return [
        {"sample": number}
        | {
            f"score_{k}" if row.numel() > 1 else "score": float(f"{v:.6g}")
            for k, v in enumerate(row.flatten().tolist())
        }
        for number, row in enumerate(scores)
    ]
