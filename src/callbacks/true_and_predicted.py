"""Predicted against true values of a regression: true_and_predicted.png."""

from typing import Any

import numpy as np
import torch
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor

from src.engine.errors import UserError
from src.engine.data.batches import describe
from src.engine.loggers.evaluated import Evaluated
from src.engine.loggers.pictures import EvaluationPicture, as_label, new_figure

MOST = 9  # panels
GOLDEN = 0x9E3779B97F4A7C15 - 2**64  # spreads consecutive numbers over all of int64 (Knuth, multiplicative hashing)


class TrueAndPredicted(EvaluationPicture):
    """Draws a point for each sample, and a panel for each output, with the line on which predictions are exact.

    Of many samples it draws some, the same ones for any number of processes; R2 and MAE, the mean absolute error, are of all.

    Args:
        most: How many points a panel has.
    """

    def __init__(self, most: int = 10_000) -> None:
        super().__init__()
        self.most = most

    def begin(self) -> "Points":
        return Points(self.most)

    def draw_seen(self, trainer: Trainer, module: LightningModule, seen: Any, suffix: str) -> None:
        if bool(((seen.values[:, 0] == 0) | (seen.values[:, 0] == 1)).all()):
            raise UserError("all true values are 0 or 1: this is no regression. Take it out of trainer.callbacks.")
        figure = plot_points(seen, f"{self.of_what}{suffix.replace('_', ' ')}")
        self.save(trainer, f"true_and_predicted{suffix}", figure)


class Points:
    """Some of the samples, and sums over all of them.

    Attributes:
        values: (N, 2, D) float32: the true values and the predicted ones of D outputs, 9 at most; a true
            value that is missing is NaN.
        keys: (N,) int64: those with the smallest are kept.
        sums: (5, D) float64, of those that are there: their number, the mean of the true values, the sum of their
            squared distances from it, of errors without sign, of squared errors.
        num_outputs: All of them.
        num_samples: All of them.
    """

    def __init__(self, most: int) -> None:
        self.most = most
        self.values = torch.empty(0, 2, 0)
        self.keys = torch.empty(0, dtype=torch.int64)
        self.sums: Tensor | None = None
        self.num_outputs = self.num_samples = 0

    def add(self, batch: Evaluated) -> None:
        """Take a batch in."""
        guess, truth = batch.scores, batch.target
        if not guess.is_floating_point() or guess.numel() != truth.numel() or len(guess) != len(truth):
            raise UserError(
                f"this is no regression with a value for each output: predicted {describe(guess)}, target "
                f"{describe(truth)}. Take the callback out of trainer.callbacks."
            )
        rows = len(guess)
        self.num_outputs = guess.numel() // max(rows, 1)
        both = torch.stack([truth.reshape(rows, -1), guess.reshape(rows, -1)], dim=1)[..., :MOST].double()
        true, predicted = both.unbind(dim=1)
        known = ~true.isnan()  # a target that nobody measured has no error
        true, predicted = true.where(known, 0.0), predicted.where(known, 0.0)
        error = predicted - true
        number = known.double().sum(dim=0)
        mean = true.sum(dim=0) / number.clamp(min=1)
        spread = (true - mean).where(known, 0.0).square().sum(dim=0)
        self.num_samples += rows
        sums = torch.stack([number, mean, spread, error.abs().sum(dim=0), error.square().sum(dim=0)])
        self._keep(both.float(), batch.places(rows) * GOLDEN, sums)

    def merge(self, other: "Points") -> None:
        """Take in what another process saw."""
        self.num_samples += other.num_samples
        self._keep(other.values, other.keys, other.sums)

    def _keep(self, values: Tensor, keys: Tensor, sums: Tensor) -> None:
        self.sums = sums if self.sums is None else joined(self.sums, sums)
        if 0 < len(self.keys) == self.most:  # of millions few are among those that stay
            values, keys = values[keys < self.keys[-1]], keys[keys < self.keys[-1]]
        if len(keys):
            keys, values = torch.cat([self.keys, keys]), torch.cat([self.values, values]) if len(self.keys) else values
            first = keys.argsort()[: self.most]
            self.keys, self.values = keys[first], values[first]

    def r2(self) -> Tensor:
        """(D,) the coefficient of determination over all samples."""
        _, _, spread, _, errors = self.sums
        return 1 - errors / spread

    def mean_absolute_error(self) -> Tensor:
        """(D,) over all samples."""
        return self.sums[3] / self.sums[0]


def joined(a: Tensor, b: Tensor) -> Tensor:
    """(5, D) the sums of two parts together; squares of values far from 0 would have no digits left for R2 (Chan 1979)."""
    number = (a[0] + b[0]).clamp(min=1)
    apart = b[1] - a[1]
    mean, spread = a[1] + apart * b[0] / number, a[2] + b[2] + apart.square() * a[0] * b[0] / number
    return torch.stack([a[0] + b[0], mean, spread, a[3] + b[3], a[4] + b[4]])


def plot_points(seen: Points, of_what: str) -> Any:
    """A figure with a panel for each output.

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
    r2, error = seen.r2().tolist(), seen.mean_absolute_error().tolist()
    for k in range(number):
        name = f"output {k}: " if number > 1 else ""
        known = int(seen.sums[0, k])
        title = f"{name}R2 {r2[k]:.4f}, MAE {error[k]:.3g}" + (f" of {known:,}" if known < total else "")
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
