"""Confusion matrix and per-class precision, recall and F1: confusion.png and report.csv."""

import csv
from pathlib import Path
from statistics import fmean
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from torch import Tensor
from torchmetrics.classification import MulticlassConfusionMatrix
from torchmetrics.utilities.plot import plot_confusion_matrix

from src.engine.errors import UserError
from src.engine.loggers.evaluated import Evaluated
from src.engine.loggers.pictures import EvaluationPicture, as_label, class_names, new_figure

SCORES = ("precision", "recall", "f1")
MAX_ANNOTATED, MAX_NAMES, MAX_CLASSES = 25, 100, 1_000  # with a number in each cell; with names; with a matrix


class ClassReport(EvaluationPicture):
    """Draws the confusion matrix beside precision, recall and F1 of each class; writes these to report.csv.

    Classes have the names that the data module has in `class_names`.
    """

    def begin(self, batch: Evaluated) -> MulticlassConfusionMatrix:
        num_classes = batch.guesses().num_classes
        if num_classes > MAX_CLASSES:
            raise UserError(
                f"{num_classes:,} classes are too many for a confusion matrix, {MAX_CLASSES:,} are allowed."
            )
        return MulticlassConfusionMatrix(num_classes, validate_args=False)

    def add(self, seen: MulticlassConfusionMatrix, batch: Evaluated) -> None:
        guesses = batch.guesses()
        seen.update(guesses.guess, guesses.truth)

    def draw_seen(
        self, trainer: Trainer, module: LightningModule, seen: MulticlassConfusionMatrix, suffix: str
    ) -> None:
        matrix, names = seen.compute(), class_names(trainer)
        rows = report(matrix, names if len(names) == len(matrix) else [str(k) for k in range(len(matrix))])
        path = Path(trainer.default_root_dir, f"report{suffix}.csv")
        with path.open("w", encoding="utf-8", errors="backslashreplace", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
        self.save(trainer, f"confusion{suffix}", plot_report(matrix, rows, self.title(suffix)))


def report(matrix: Tensor, names: list[str]) -> list[dict[str, Any]]:
    """Return a row for each class, and one for the means over the classes that occur.

    Args:
        matrix: (C, C) int64, true classes by guessed ones.
        names: C of them.
    """
    from sklearn.metrics import precision_recall_fscore_support

    truth, guess = matrix.nonzero(as_tuple=True)
    weights = {"labels": range(len(names)), "sample_weight": matrix[truth, guess], "zero_division": 0.0}
    scores = precision_recall_fscore_support(truth, guess, **weights)[:3]
    rows = [
        {"class": name} | dict(zip(SCORES, map(float, values), strict=True)) | {"samples": samples, "guesses": guesses}
        for name, *values, samples, guesses in zip(names, *scores, matrix.sum(1).tolist(), matrix.sum(0).tolist())
    ]
    known = [row for row in rows if row["samples"] or row["guesses"]]
    total = int(matrix.sum())
    means = {score: fmean(row[score] for row in known) if known else 0.0 for score in SCORES}
    rows.append({"class": "mean"} | means | {"samples": total, "guesses": total})
    return [row | {score: round(row[score], 4) for score in SCORES} for row in rows]


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
    figure = new_figure(box + panel + label + 0.8, box + label * is_long + 1.2)
    left, right = figure.subplots(1, 2, sharey=True, width_ratios=(box, panel))
    right.set_box_aspect(box / panel)
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
        axes.tick_params(labelsize=size, length=0)
        for text in (*axes.texts, axes.xaxis.label, axes.yaxis.label):
            text.set_fontsize(size)
    accuracy = int(matrix.diag().sum()) / max(mean["samples"], 1)
    words = f"{accuracy:.2%} of {mean['samples']:,} right, mean F1 {mean['f1']:.3f}"
    figure.suptitle(f"{as_label(title)}\n{words}", x=0.02, ha="left", fontsize="medium")
    return figure
