"""What a classifier mistakes for what: confusion.png and report.csv."""

import csv
import io
import itertools
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor

from src.engine.evaluated import Evaluated
from src.engine.pictures import EvaluationPicture, new_figure

COLUMNS = ("precision", "recall", "f1")
MOST = 25  # classes whose counts are written into their cells


class ClassReport(EvaluationPicture):
    """Draws the confusion matrix and, beside it, precision, recall and F1 of each class; these go to report.csv, too.

    Classes have the names that the data module has in `class_names`.
    """

    def begin(self) -> "Counts":
        return Counts()

    def draw_seen(self, trainer: Trainer, module: LightningModule, seen: Any, suffix: str) -> None:
        matrix = seen.matrix
        names = names_of(trainer, len(matrix))
        rows = report(matrix, names)
        text = io.StringIO(newline="")
        writer = csv.DictWriter(text, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
        Path(trainer.default_root_dir, f"report{suffix}.csv").write_text(text.getvalue(), encoding="utf-8", newline="")
        self.save(
            trainer, f"confusion{suffix}", plot_report(matrix, names, f"{self.of_what}{suffix.replace('_', ' ')}")
        )


class Counts:
    """The confusion matrix of the batches so far.

    Attributes:
        matrix: (C, C) int64, true classes by guessed ones.
    """

    def __init__(self) -> None:
        self.matrix = torch.zeros(0, 0, dtype=torch.int64)

    def add(self, batch: Evaluated) -> None:
        """Count a batch."""
        seen = batch.guesses()
        number = seen.num_classes
        counts = torch.bincount(seen.truth * number + seen.guess, minlength=number**2)
        self._add(counts.reshape(number, number))

    def merge(self, other: "Counts") -> None:
        """Count what another process saw."""
        self._add(other.matrix)

    def _add(self, matrix: Tensor) -> None:
        # Where a step gave classes alone, a later batch may have one that is new.
        size = max(len(self.matrix), len(matrix))
        self.matrix = sum(torch.nn.functional.pad(m, (0, size - len(m)) * 2) for m in (self.matrix, matrix))


def names_of(trainer: Trainer, number: int) -> list[str]:
    """The data module's names of so many classes, or their numbers."""
    names = getattr(getattr(trainer, "datamodule", None), "class_names", None)
    return [str(name) for name in (names if names and len(names) == number else range(number))]


def report(matrix: Tensor, names: list[str]) -> list[dict[str, Any]]:
    """Precision, recall and F1 of each class, and their means over the classes that there are, as torchmetrics has them.

    Args:
        matrix: (C, C) int64, true classes by guessed ones.
        names: C of them.
    """
    right, samples, guesses = matrix.diag().double(), matrix.sum(dim=1), matrix.sum(dim=0)
    # A class that was never guessed has no precision: 0, as in torchmetrics.
    part = {"precision": right / guesses.clamp(min=1), "recall": right / samples.clamp(min=1)}
    part["f1"] = 2 * right / (samples + guesses).clamp(min=1)
    there = (samples + guesses) > 0
    mean = {name: round(float(value[there].mean()), 4) for name, value in part.items()}
    rows = [
        {"class": each}
        | {name: round(float(value[k]), 4) for name, value in part.items()}
        | {"samples": int(samples[k]), "guesses": int(guesses[k])}
        for k, each in enumerate(names)
    ]
    return [*rows, {"class": "mean"} | mean | {"samples": int(samples.sum()), "guesses": int(guesses.sum())}]


def plot_report(matrix: Tensor, names: list[str], of_what: str) -> Any:
    """A figure: the confusion matrix on the left, the report on the right.

    Args:
        matrix: (C, C) int64, true classes by guessed ones.
        names: C of them.
        of_what: In the title.
    """
    from torchmetrics.utilities.plot import plot_confusion_matrix

    rows, number = report(matrix, names), len(names)
    short, label = number <= MOST, 0.15 + 0.075 * max(len("precision"), *map(len, names))  # inches a name takes
    side = min(0.5, 9 / number)  # of a cell
    parts, gap = (side * number, max(side * 3, 1)), 0.2
    width, below = label + 0.5 + sum(parts) + gap, 0.8 * label + 0.4
    figure = new_figure(width, side * number + below + 0.5, margins=(label + 0.3, below, 0.15, 0.45))
    left, right = figure.subplots(1, 2, width_ratios=parts, gridspec_kw={"wspace": 2 * gap / sum(parts)})
    plot_confusion_matrix(matrix, ax=left, add_text=short, labels=names, cmap="Blues")
    values = [[row[name] for name in COLUMNS] for row in rows[:-1]]
    right.imshow(values, cmap="Greens", vmin=0, vmax=1, alpha=0.4, aspect="auto")
    right.set_xticks(range(3), COLUMNS, rotation=45)
    right.set_yticks(())
    for row, column in itertools.product(range(number if short else 0), range(3)):
        right.text(column, row, f"{values[row][column]:.3f}", ha="center", va="center")
    for axes in (left, right):
        axes.tick_params(length=0)
        for text in (*axes.get_xticklabels(), *axes.get_yticklabels(), *axes.texts, axes.xaxis.label, axes.yaxis.label):
            text.set_fontsize(9 if short else 6)
    accuracy = float(matrix.diag().sum() / matrix.sum().clamp(min=1))
    figure.suptitle(
        f"{of_what}: {accuracy:.2%} of {int(matrix.sum()):,} right, mean F1 {rows[-1]['f1']:.3f}",
        fontsize="large" if number > 3 else "medium",
    )
    return figure
