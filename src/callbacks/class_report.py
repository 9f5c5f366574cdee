"""Confusion matrix and per-class precision, recall and F1: confusion.png and report.csv."""

import csv
from pathlib import Path
from typing import Any

import numpy as np
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.classification import MulticlassConfusionMatrix
from torchmetrics.utilities.plot import plot_confusion_matrix

from src.engine.errors import UserError
from src.engine.loggers.pictures import Evaluated, EvaluationPicture, as_label, class_names, new_figure

SCORES = ("precision", "recall", "f1")
MAX_ANNOTATED, MAX_NAMES, MAX_CLASSES = 25, 100, 1_000  # with a number in each cell; with names; with a matrix


class ClassReport(EvaluationPicture):
    """Draws the confusion matrix with the F1 of each class; writes precision, recall and F1 to report.csv.

    Classes have the names that the data module has in `class_names`.
    """

    def begin(self, batch: Evaluated) -> Metric:
        num_classes = batch.classes()[0].shape[1]
        if num_classes > MAX_CLASSES:
            raise UserError(f"{num_classes:,} classes are too many for a confusion matrix of {MAX_CLASSES:,}.")
        return MulticlassConfusionMatrix(num_classes, ignore_index=-1, validate_args=False)

    def add(self, seen: Metric, batch: Evaluated) -> None:
        seen.update(*batch.classes())

    def draw_seen(self, trainer: Trainer, module: LightningModule, seen: Metric, suffix: str) -> None:
        matrix, names = seen.compute(), class_names(trainer)
        names = names if len(names) == len(matrix) else [str(k) for k in range(len(matrix))]
        scores = scores_of(matrix)
        samples, guesses = ([*matrix.sum(dim).tolist(), int(matrix.sum())] for dim in (1, 0))
        path = Path(trainer.default_root_dir, f"report{suffix}.csv")
        with path.open("w", encoding="utf-8", errors="backslashreplace", newline="") as file:
            rows = zip([*names, "mean"], *scores.round(4).tolist(), samples, guesses, strict=True)
            csv.writer(file).writerows([("class", *SCORES, "samples", "guesses"), *rows])
        self.save(trainer, f"confusion{suffix}", plot_report(matrix, names, scores, self.title(suffix)))


def scores_of(matrix: Tensor) -> np.ndarray:
    """Return precision, recall and F1, (3, C + 1): of each class, then their means over the classes that occur.

    Args:
        matrix: (C, C) int64, true classes by guessed ones.
    """
    from sklearn.metrics import precision_recall_fscore_support

    truth, guess = matrix.nonzero(as_tuple=True)
    if not len(truth):
        raise UserError("no target is one of the classes.")
    options = {"sample_weight": matrix[truth, guess], "zero_division": 0.0}
    each = precision_recall_fscore_support(truth, guess, labels=range(len(matrix)), **options)[:3]
    means = precision_recall_fscore_support(truth, guess, average="macro", **options)[:3]
    return np.column_stack([each, means])


def plot_report(matrix: Tensor, names: list[str], scores: np.ndarray, title: str) -> Any:
    """Return a figure: the confusion matrix, and beside each row the F1 of its class.

    Args:
        matrix: (C, C) int64, true classes by guessed ones.
        names: Of the C classes.
        scores: (3, C + 1), see `scores_of`.
        title: Of the figure, before accuracy and F1.
    """
    number, short = len(matrix), len(matrix) <= MAX_ANNOTATED
    labels = {k: as_label(names[k]) for k in range(0, number, -(-number // MAX_NAMES))}
    size, box = 9 if short else 6, min(max(0.5 * number, 1.2), 8)  # a font; inches of the matrix
    length = 0.0085 * size * max(map(len, labels.values()))
    is_long = length > box / len(labels)
    figure = new_figure(max(box + length + 1.2, 3.6), box + length * is_long + 1.2)
    axes = figure.add_subplot()
    plot_confusion_matrix(matrix, ax=axes, add_text=short, cmap="Blues")
    axes.set_xticks(list(labels), list(labels.values()), rotation=90 if is_long else 0)
    axes.set_yticks(list(labels), [f"{label}  {scores[2, k]:.2f}" for k, label in labels.items()], rotation=0)
    axes.set_ylabel("True class and F1")
    axes.tick_params(labelsize=size, length=0)
    for text in (*axes.texts, axes.xaxis.label, axes.yaxis.label):
        text.set_fontsize(size)
    correct, total = int(matrix.trace()), int(matrix.sum())
    words = f"{correct / total:.2%} of {total:,} right, mean F1 {scores[2, -1]:.3f}"
    figure.suptitle(f"{as_label(title)}\n{words}", x=0.02, ha="left", fontsize="medium")
    return figure
