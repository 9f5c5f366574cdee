"""What a classifier mistakes for what: confusion.png and report.csv.

Of thousands of classes report.csv has each one. In the picture several neighbours share a cell, as its pixels would.
"""

import csv
import itertools
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from torch.nn import functional

from src.engine.loggers.evaluated import Evaluated
from src.engine.loggers.pictures import EvaluationPicture, as_label, class_names, new_figure

COLUMNS = ("precision", "recall", "f1")
MOST = 25  # classes whose counts are written into their cells
MOST_NAMES, MOST_CELLS = 100, 1_000  # beside an axis; along it


class ClassReport(EvaluationPicture):
    """Draws the confusion matrix and, beside it, precision, recall and F1 of each class; these go to report.csv, too.

    Classes have the names that the data module has in `class_names`.
    """

    def begin(self) -> "Counts":
        return Counts()

    def draw_seen(self, trainer: Trainer, module: LightningModule, seen: Any, suffix: str) -> None:
        names = class_names(trainer)
        names = names if len(names) == len(seen.right) else [str(number) for number in range(len(seen.right))]
        rows = report(seen, names)
        path = Path(trainer.default_root_dir, f"report{suffix}.csv")
        with path.open("w", encoding="utf-8", errors="backslashreplace", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
        self.save(trainer, f"confusion{suffix}", plot_report(seen, names, f"{self.of_what}{suffix.replace('_', ' ')}"))


class Counts:
    """The confusion matrix of the batches so far, and what it says of each class.

    Attributes:
        matrix: (M, M) int64, true classes by guessed ones; M is C, unless there are more than MOST_CELLS.
        per_cell: How many neighbouring classes share a row and a column of it.
        right: (C,) int64, samples of each class that were guessed.
        samples: (C,) int64, all of each class.
        guesses: (C,) int64, how often each was the guess.
    """

    def __init__(self) -> None:
        self.matrix = torch.zeros(0, 0, dtype=torch.int64)
        self.per_cell = 1
        self.right = self.samples = self.guesses = torch.zeros(0, dtype=torch.int64)

    def add(self, batch: Evaluated) -> None:
        """Count a batch."""
        seen = batch.guesses()
        self.grow(seen.num_classes, 1)
        for counts, classes in (
            (self.samples, seen.truth),
            (self.guesses, seen.guess),
            (self.right, seen.truth[seen.truth == seen.guess]),
        ):
            counts += torch.bincount(classes, minlength=len(counts))
        ones = torch.ones_like(seen.truth)
        self.matrix.index_put_((seen.truth // self.per_cell, seen.guess // self.per_cell), ones, accumulate=True)

    def merge(self, other: "Counts") -> None:
        """Count what another process saw."""
        num_classes, per_cell = max(len(self.right), len(other.right)), max(self.per_cell, other.per_cell)
        for each in (self, other):
            each.grow(num_classes, per_cell)
        self.matrix += other.matrix
        self.right, self.samples = self.right + other.right, self.samples + other.samples
        self.guesses = self.guesses + other.guesses

    def grow(self, num_classes: int, per_cell: int) -> None:
        """Make room for more classes: where a step gave classes alone, a later batch may have one that is new."""
        more = num_classes - len(self.right)
        if more > 0:
            self.right, self.samples, self.guesses = (
                functional.pad(counts, (0, more)) for counts in (self.right, self.samples, self.guesses)
            )
        while self.per_cell < per_cell or len(self.right) > MOST_CELLS * self.per_cell:
            self.matrix = functional.pad(self.matrix, (0, len(self.matrix) % 2) * 2)
            half = len(self.matrix) // 2
            self.matrix = self.matrix.reshape(half, 2, half, 2).sum(dim=(1, 3))
            self.per_cell *= 2
        more = -(-len(self.right) // self.per_cell) - len(self.matrix)
        if more > 0:
            self.matrix = functional.pad(self.matrix, (0, more) * 2)


def report(seen: Counts, names: list[str]) -> list[dict[str, Any]]:
    """Precision, recall and F1 of each class, and their means over the classes that there are, as torchmetrics has them.

    Args:
        seen: The counts of C classes.
        names: C of them.
    """
    right, samples, guesses = seen.right.double(), seen.samples, seen.guesses
    # A class that was never guessed has no precision: 0, as in torchmetrics.
    part = {"precision": right / guesses.clamp(min=1), "recall": right / samples.clamp(min=1)}
    part["f1"] = 2 * right / (samples + guesses).clamp(min=1)
    there = (samples + guesses) > 0
    mean = {name: round(float(value[there].mean()), 4) for name, value in part.items()}
    columns = {name: [round(each, 4) for each in value.tolist()] for name, value in part.items()}
    columns |= {"class": names, "samples": samples.tolist(), "guesses": guesses.tolist()}
    order = ("class", *part, "samples", "guesses")
    rows = [dict(zip(order, values, strict=True)) for values in zip(*(columns[name] for name in order), strict=True)]
    return [*rows, {"class": "mean"} | mean | {"samples": int(samples.sum()), "guesses": int(guesses.sum())}]


def plot_report(seen: Counts, names: list[str], of_what: str) -> Any:
    """A figure: the confusion matrix on the left, the report on the right.

    Args:
        seen: The counts of C classes.
        names: C of them.
        of_what: In the title.
    """
    from torchmetrics.utilities.plot import plot_confusion_matrix

    rows, number = report(seen, names), len(names)
    short, every = number <= MOST, -(-number // MOST_NAMES)
    named = {k / seen.per_cell: as_label(names[k]) for k in range(0, number, every)}
    label = 0.15 + 0.075 * max(len("precision"), *map(len, named.values()))  # inches a name takes
    side = min(0.5, 9 / number)  # of a cell
    parts, gap = (side * number, max(side * 3, 1)), 0.2
    width, below = label + 0.5 + sum(parts) + gap, 0.8 * label + 0.4
    figure = new_figure(width, side * number + below + 0.5, margins=(label + 0.3, below, 0.15, 0.45))
    left, right = figure.subplots(1, 2, width_ratios=parts, gridspec_kw={"wspace": 2 * gap / sum(parts)})
    if short:
        plot_confusion_matrix(seen.matrix, ax=left, labels=list(named.values()), cmap="Blues")
    else:
        left.imshow(seen.matrix.numpy(), cmap="Blues")
        left.set(xlabel="Predicted class", ylabel="True class")
        left.set_xticks(list(named), list(named.values()), rotation=45)
        left.set_yticks(list(named), list(named.values()), rotation=25)
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
    total = int(seen.samples.sum())
    accuracy = int(seen.right.sum()) / max(total, 1)
    shared = f"; {seen.per_cell} classes a cell" if seen.per_cell > 1 else ""
    figure.suptitle(
        f"{as_label(of_what)}: {accuracy:.2%} of {total:,} right, mean F1 {rows[-1]['f1']:.3f}{shared}",
        fontsize="large" if number > 3 else "medium",
    )
    return figure
