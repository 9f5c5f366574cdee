"""Predicted against true values of a regression: true_and_predicted.png."""

from typing import Any

import numpy as np
import torch
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor
from torchmetrics import MeanAbsoluteError, MetricCollection, R2Score

from src.engine.errors import UserError
from src.engine.data.batches import describe
from src.engine.loggers.pictures import EvaluationPicture, Evaluated, as_label, new_figure

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
        return Points(self.most)

    def add(self, seen: "Points", batch: Evaluated) -> None:
        seen.add(batch)

    def draw_seen(self, trainer: Trainer, module: LightningModule, seen: Any, suffix: str) -> None:
        if bool(((seen.values[:, 0] == 0) | (seen.values[:, 0] == 1)).all()):
            raise UserError("all true values are 0 or 1: this is no regression. Take it out of trainer.callbacks.")
        figure = plot_points(seen, self.title(suffix))
        self.save(trainer, f"true_and_predicted{suffix}", figure)


class Points:
    """Some of the samples, and the metrics of all of them.

    Attributes:
        values: (N, 2, D) float32: true and predicted values of D outputs; a true value that is missing is NaN.
        keys: (N,) int64; the samples with the smallest keys are kept.
        metrics: R2 and MAE of each output, over the samples whose true value is known.
        num_known: (D,) int64, their numbers.
        num_outputs: All of them.
        num_samples: All of them.
    """

    def __init__(self, most: int) -> None:
        self.most = most
        self.values, self.keys = torch.empty(0, 2, 0), torch.empty(0, dtype=torch.int64)
        self.metrics: list[MetricCollection] = []
        self.num_known: Any = 0
        self.num_outputs = self.num_samples = 0

    def add(self, batch: Evaluated) -> None:
        """Take in a batch."""
        guess, truth = batch.scores, batch.target
        if not guess.is_floating_point() or guess.numel() != truth.numel() or len(guess) != len(truth):
            raise UserError(
                f"this is no regression with a value for each output: predicted {describe(guess)}, target "
                f"{describe(truth)}. Take the callback out of trainer.callbacks."
            )
        rows = len(guess)
        self.num_outputs = guess.numel() // max(rows, 1)
        both = torch.stack([truth.reshape(rows, -1), guess.reshape(rows, -1)], dim=1)[..., :MAX_PANELS].double()
        known = ~both[:, 0].isnan()  # a target that nobody measured has no error
        new = [
            MetricCollection({"R2": R2Score(sync_on_compute=False), "MAE": MeanAbsoluteError(sync_on_compute=False)})
            for _ in known.T
        ]
        self.metrics = self.metrics or [each.set_dtype(torch.float64) for each in new]
        for k, metrics in enumerate(self.metrics):
            true, predicted = both[known[:, k], :, k].T
            metrics.update(predicted, true)
        self.num_samples += rows
        self._keep(both.float(), batch.places(rows) * GOLDEN % 2**32, known.sum(dim=0))

    def merge_state(self, other: "Points") -> None:
        """Take in what another process saw."""
        for mine, others in zip(self.metrics, other.metrics, strict=True):
            for name in mine:
                mine[name].merge_state(others[name])
        self.num_samples += other.num_samples
        self._keep(other.values, other.keys, other.num_known)

    def _keep(self, values: Tensor, keys: Tensor, num_known: Tensor) -> None:
        self.num_known = self.num_known + num_known
        keys, values = torch.cat([self.keys, keys]), torch.cat([self.values, values]) if len(self.keys) else values
        first = keys.argsort()[: self.most]
        self.keys, self.values = keys[first], values[first]


def plot_points(seen: Points, of_what: str) -> Any:
    """Return a figure with a panel for each output.

    Args:
        seen: The points.
        of_what: In the title.
    """
    number = seen.values.shape[2]
    columns = min(number, 3)
    lines = -(-number // columns)
    figure = new_figure(3.4 * columns + 0.4, 3.4 * lines + 0.3, margins=(0.8, 0.5, 0.15, 0.7))
    figure.subplots_adjust(wspace=0.35, hspace=0.4)
    shown, total = len(seen.keys), seen.num_samples
    some = "" if shown == total else f", {shown:,} are drawn"
    more = "" if number == seen.num_outputs else f", {number} of {seen.num_outputs} outputs"
    figure.suptitle(f"{as_label(of_what)}: {total:,} samples{some}{more}", fontsize="medium")
    for k in range(number):
        name = f"output {k}: " if number > 1 else ""
        known = int(seen.num_known[k])
        r2, mae = (seen.metrics[k][each].compute() if known > 1 else np.nan for each in ("R2", "MAE"))
        title = f"{name}R2 {r2:.4f}, MAE {mae:.3g}" + (f" of {known:,}" if known < total else "")
        axes = figure.add_subplot(lines, columns, k + 1, xlabel="true", ylabel="predicted")
        axes.set_title(title, fontsize="small", pad=12)
        true, predicted = seen.values[:, :, k].T.numpy()
        axes.plot(true, predicted, ".", markersize=7 if shown < 500 else 3, alpha=0.5, markeredgewidth=0)
        if len(finite := true[np.isfinite(true)]):
            axes.axline((float(finite.mean()), float(finite.mean())), slope=1, color="black", linewidth=0.8)
        axes.locator_params(nbins=5)
        axes.ticklabel_format(scilimits=(-3, 4))
        axes.grid(alpha=0.3)
    return figure
