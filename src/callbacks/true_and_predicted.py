"""Predicted against true values of a regression: true_and_predicted.png."""

import math
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor
from torchmetrics import MeanAbsoluteError, R2Score

from src.engine.data.batches import describe
from src.engine.errors import UserError
from src.engine.loggers.evaluated import Evaluated
from src.engine.loggers.pictures import EvaluationPicture, as_label, new_figure

MAX_PANELS = 9
GOLDEN = 0x9E3779B1  # a multiple of it spreads consecutive numbers over 32 bits (Knuth, multiplicative hashing)


class TrueAndPredicted(EvaluationPicture):
    """Draws a point for each sample, and a panel for each output, with the line on which predictions are exact.

    If there are many samples it draws some, the same ones for any number of processes; R2 and MAE are of all.

    Args:
        most: How many points a panel has.
    """

    def __init__(self, most: int = 10_000) -> None:
        super().__init__()
        self.most = most

    def begin(self, batch: Evaluated) -> "Points":
        guess, truth = batch.scores, batch.target
        if not guess.is_floating_point() or guess.numel() != truth.numel() or len(guess) != len(truth):
            raise UserError(
                f"this is no regression with a value for each output: predicted {describe(guess)}, target "
                f"{describe(truth)}. Take the callback out of trainer.callbacks."
            )
        return Points(self.most, guess[0].numel())

    def add(self, seen: "Points", batch: Evaluated) -> None:
        seen.update(batch.scores, batch.target, batch.places(len(batch.target)))

    def draw_seen(self, trainer: Trainer, module: LightningModule, seen: "Points", suffix: str) -> None:
        if bool(((seen.values[:, 0] == 0) | (seen.values[:, 0] == 1)).all()):
            raise UserError(
                "this is no regression: all targets are 0 or 1. Take the callback out of trainer.callbacks."
            )
        self.save(trainer, f"true_and_predicted{suffix}", plot_points(seen, self.title(suffix)))


class Points:
    """Keeps some of the samples, and the metrics of all.

    Attributes:
        values: (N, 2, D) float32, true and predicted values of the D outputs that are drawn.
        keys: (N,) int64; the `most` samples with the smallest keys are kept.
        total: How many samples there were.
        metrics: R2 and MAE of each output that is drawn.
    """

    def __init__(self, most: int, num_outputs: int) -> None:
        self.most = most
        self.num_outputs = num_outputs
        drawn = min(num_outputs, MAX_PANELS)
        self.values, self.keys = torch.empty(0, 2, drawn), torch.empty(0, dtype=torch.int64)
        self.total = 0
        # Rank zero alone computes them, from the states of all.
        metrics = (
            R2Score(multioutput="raw_values", sync_on_compute=False),
            MeanAbsoluteError(drawn, sync_on_compute=False),
        )
        self.metrics = [metric.set_dtype(torch.float64) for metric in metrics]

    def update(self, predicted: Tensor, true: Tensor, places: Tensor) -> None:
        """Take in B samples.

        Args:
            predicted: (B, ...) float32.
            true: (B, ...), as many values.
            places: (B,) int64, their indices in the data.
        """
        true, predicted = (each.reshape(len(places), -1)[:, :MAX_PANELS].double() for each in (true, predicted))
        self.total += len(places)
        for metric in self.metrics:
            metric.update(predicted, true)
        self._keep(torch.stack([true, predicted], dim=1).float(), places * GOLDEN % 2**32)

    def merge_state(self, other: "Points") -> None:
        """Take in what another process saw."""
        self.total += other.total
        for metric, another in zip(self.metrics, other.metrics, strict=True):
            metric.merge_state(another)
        self._keep(other.values, other.keys)

    def _keep(self, values: Tensor, keys: Tensor) -> None:
        keys, values = torch.cat([self.keys, keys]), torch.cat([self.values, values])
        first = keys.argsort()[: self.most]
        self.keys, self.values = keys[first], values[first]


def plot_points(seen: Points, title: str) -> Any:
    """Return a figure with a panel for each of the first outputs.

    Args:
        seen: The points.
        title: Of the figure, before the counts.
    """
    shown, _, number = seen.values.shape
    columns = min(number, 3)
    lines = -(-number // columns)
    figure = new_figure(3.4 * columns + 0.4, 3.4 * lines + 0.3)
    counts = f"{seen.total:,} samples" + f", {shown:,} are drawn" * (shown < seen.total)
    counts += f", {number} of {seen.num_outputs} outputs" * (number < seen.num_outputs)
    figure.suptitle(f"{as_label(title)}: {counts}", fontsize="medium")
    r2, mae = (metric.compute().reshape(-1).tolist() if seen.total > 1 else [math.nan] for metric in seen.metrics)
    for k, (true, predicted) in enumerate(seen.values.permute(2, 1, 0).numpy()):
        axes = figure.add_subplot(lines, columns, k + 1, xlabel="true", ylabel="predicted")
        name = f"output {k}: " * (seen.num_outputs > 1)
        axes.set_title(f"{name}R2 {r2[k]:.4f}, MAE {mae[k]:.3g}", fontsize="small", pad=12)
        axes.plot(true, predicted, ".", markersize=7 if shown < 500 else 3, alpha=0.5, mew=0)
        axes.axline((true[0], true[0]), slope=1, color="black", linewidth=0.8)
        axes.locator_params(nbins=5)
        axes.ticklabel_format(scilimits=(-3, 4))
        axes.grid(alpha=0.3)
    return figure
