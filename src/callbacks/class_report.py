"""Confusion matrix and per-class precision, recall and F1: confusion.png and report.csv."""

import csv
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor
from torchmetrics import MetricCollection, classification
from torchmetrics.utilities.plot import plot_confusion_matrix

from src.engine.errors import UserError
from src.engine.loggers.evaluated import Evaluated
from src.engine.loggers.pictures import EvaluationPicture, as_label, class_names, new_figure

SCORES = ("precision", "recall", "f1")
MAX_ANNOTATED, MAX_NAMES, MAX_CLASSES = 25, 100, 1_000  # with a number in each cell; with names; with a matrix


class ClassReport(EvaluationPicture):
    """Draws the confusion matrix beside precision, recall and F1 of each class; writes these to report.csv.

    Classes have the names that the data module has in `class_names`. More than 1,000 classes are in report.csv alone.
    """

    def begin(self, batch: Evaluated) -> "ClassScores":
        return ClassScores(batch.guesses().num_classes)

    def add(self, seen: "ClassScores", batch: Evaluated) -> None:
        guesses = batch.guesses()
        seen.update(guesses.guess, guesses.truth)

    def draw_seen(self, trainer: Trainer, module: LightningModule, seen: Any, suffix: str) -> None:
        names, values = class_names(trainer), seen.compute()
        names = names if len(names) == len(values["f1"]) else [str(number) for number in range(len(values["f1"]))]
        rows = report(values, names)
        path = Path(trainer.default_root_dir, f"report{suffix}.csv")
        with path.open("w", encoding="utf-8", errors="backslashreplace", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
        if "matrix" not in values:
            raise UserError(f"{len(names):,} classes are too many for confusion.png; report.csv has them all.")
        self.save(trainer, f"confusion{suffix}", plot_report(values["matrix"], rows, self.title(suffix)))


class ClassScores(MetricCollection):
    """The metrics of each of C classes, and the confusion matrix unless there are more than MAX_CLASSES."""

    def __init__(self, num_classes: int) -> None:
        # Rank zero alone computes them, from the states of all.
        options: dict[str, Any] = {"num_classes": num_classes, "validate_args": False, "sync_on_compute": False}
        metrics: dict[str, Any] = {
            "precision": classification.MulticlassPrecision(average=None, **options),
            "recall": classification.MulticlassRecall(average=None, **options),
            "f1": classification.MulticlassF1Score(average=None, **options),
            "counts": classification.MulticlassStatScores(average=None, **options),
        }
        if num_classes <= MAX_CLASSES:
            metrics["matrix"] = classification.MulticlassConfusionMatrix(**options)
        super().__init__(metrics)

    def merge_state(self, other: "ClassScores") -> None:
        """Take in what another process saw."""
        for name, metric in self.items():
            metric.merge_state(other[name])


def report(values: dict[str, Tensor], names: list[str]) -> list[dict[str, Any]]:
    """Return a row for each class, and one for the means over the classes that occur.

    Args:
        values: Of `ClassScores`: each score (C,) float32; `counts` (C, 5) int64.
        names: C of them.
    """
    right, wrong, _, _, samples = values["counts"].unbind(dim=1)
    guesses, scores = right + wrong, torch.stack([values[name] for name in SCORES], dim=1).double()
    means = scores[samples + guesses > 0].mean(dim=0, keepdim=True)
    columns = (torch.cat([scores, means]), *(torch.cat([each, each.sum(0, True)]) for each in (samples, guesses)))
    return [
        {"class": name} | {k: round(v, 4) for k, v in zip(SCORES, row, strict=True)} | {"samples": s, "guesses": g}
        for name, row, s, g in zip([*names, "mean"], *(column.tolist() for column in columns), strict=True)
    ]


def plot_report(matrix: Tensor, rows: list[dict[str, Any]], title: str) -> Any:
    """Return a figure: the confusion matrix, and beside each row the scores of its class.

    Args:
        matrix: (C, C) int64, true classes by guessed ones.
        rows: The C + 1 rows of `report`.
        title: Of the figure, before accuracy and F1.
    """
    *classes, mean = rows
    number, short = len(matrix), len(matrix) <= MAX_ANNOTATED
    names = {k: as_label(classes[k]["class"]) for k in range(0, number, -(-number // MAX_NAMES))}
    size, box, panel = 9 if short else 6, min(max(0.5 * number, 1.2), 8), 1.5  # a font; inches of the two parts
    label = 0.0085 * size * max(map(len, names.values()))
    is_long = label > box / len(names)
    margins = (label + 0.5, 0.5 + (label if is_long else 0.1), panel + 0.3, 0.75)
    figure = new_figure(box + margins[0] + margins[2], box + margins[1] + margins[3], margins)
    left = figure.add_subplot()
    right = left.inset_axes((1 + 0.1 / box, 0, panel / box, 1), sharey=left)
    if short:
        plot_confusion_matrix(matrix, ax=left, labels=list(names.values()), cmap="Blues")
    else:
        left.imshow(matrix.numpy(), cmap="Blues")
        left.set(xlabel="Predicted class", ylabel="True class")
    left.set_xticks(list(names), list(names.values()), rotation=90 if is_long else 0)
    left.set_yticks(list(names), list(names.values()), rotation=0)
    for score, marker in zip(SCORES, "><o", strict=True):
        right.plot([row[score] for row in classes], range(number), marker, alpha=0.6, markersize=size / 2)
    right.set_title("\u25b8 precision  \u25c2 recall  \u25cf F1", fontsize=7)
    right.set_xlim(min(row[score] for row in classes for score in SCORES) - 0.03, 1.03)
    right.locator_params(axis="x", nbins=3)
    right.grid(alpha=0.3)
    for axes in (left, right):
        axes.tick_params(labelsize=size, length=0, labelleft=axes is left)
        for text in (*axes.texts, axes.xaxis.label, axes.yaxis.label):
            text.set_fontsize(size)
    accuracy = int(matrix.diag().sum()) / max(mean["samples"], 1)
    words = f"{accuracy:.2%} of {mean['samples']:,} right, mean F1 {mean['f1']:.3f}"
    figure.suptitle(f"{as_label(title)}\n{words}", x=0.02, ha="left", fontsize="medium")
    return figure
