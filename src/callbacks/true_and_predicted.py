"""Predicted against true values of a regression: true_and_predicted.png."""

import math
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor
from torchmetrics import CatMetric
from torchmetrics.functional import mean_absolute_error, r2_score

from src.engine.data.batches import describe
from src.engine.errors import UserError
from src.engine.loggers.pictures import Evaluated, EvaluationPicture, as_label, new_figure

MAX_PANELS = 9


class TrueAndPredicted(EvaluationPicture):
    """Draws a point for each sample, and a panel for each output, with the line on which predictions are exact.

    If there are many samples it draws some, the same ones for any number of processes; R2 and MAE are of all.
    It keeps the first nine outputs of all samples: 24 bytes a sample with one output.

    Args:
        most: How many points a panel has.
    """

    def __init__(self, most: int = 10_000) -> None:
        super().__init__()
        self.most = most

    def begin(self, batch: Evaluated) -> CatMetric:
        guess, truth = batch.scores, batch.target
        if not guess.is_floating_point() or guess.numel() != truth.numel() or len(guess) != len(truth):
            raise UserError(
                f"this is no regression with a value for each output: predicted {describe(guess)}, target "
                f"{describe(truth)}. Take the callback out of trainer.callbacks."
            )
        return CatMetric(nan_strategy="disable").set_dtype(torch.float64)

    def add(self, seen: CatMetric, batch: Evaluated) -> None:
        true, predicted = (each.reshape(len(each), -1)[:, :MAX_PANELS] for each in (batch.target, batch.scores))
        seen.update(torch.column_stack([batch.places(len(true)).double(), true, predicted]))

    def draw_seen(self, trainer: Trainer, module: LightningModule, seen: CatMetric, suffix: str) -> None:
        rows = seen.compute()
        true, predicted = rows[rows[:, 0].argsort(), 1:].chunk(2, dim=1)  # in the order of the data
        self.save(trainer, f"true_and_predicted{suffix}", plot_points(true, predicted, self.most, self.title(suffix)))


def plot_points(true: Tensor, predicted: Tensor, most: int, title: str) -> Any:
    """Return a figure with a panel for each of the first outputs.

    Args:
        true: (N, D), the samples in the order of the data.
        predicted: (N, D).
        most: How many points a panel has.
        title: Of the figure, before the counts.
    """
    total, number = true.shape
    drawn = torch.randperm(total, generator=torch.Generator().manual_seed(0))[:most]
    columns = min(number, 3)
    lines = -(-number // columns)
    figure = new_figure(3.4 * columns + 0.4, 3.4 * lines + 0.3)
    counts = f"{total:,} samples" + f", {most:,} are drawn" * (most < total)
    counts += f", the first {number} outputs" * (number == MAX_PANELS)
    figure.suptitle(f"{as_label(title)}: {counts}", fontsize="medium")
    for k, (x, y) in enumerate(zip(true.T, predicted.T, strict=True)):
        axes = figure.add_subplot(lines, columns, k + 1, xlabel="true", ylabel="predicted")
        r2 = r2_score(y, x) if total > 1 else math.nan
        name = f"output {k}: " * (number > 1)
        axes.set_title(f"{name}R2 {r2:.4f}, MAE {mean_absolute_error(y, x):.3g}", fontsize="small", pad=12)
        axes.plot(x[drawn], y[drawn], ".", markersize=7 if len(drawn) < 500 else 3, alpha=0.5, mew=0)
        axes.axline((float(x[0]), float(x[0])), slope=1, color="black", linewidth=0.8)
        axes.locator_params(nbins=5)
        axes.ticklabel_format(scilimits=(-3, 4))
        axes.grid(alpha=0.3)
    return figure
