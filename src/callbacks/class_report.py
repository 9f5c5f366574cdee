"""Confusion matrix and per-class precision, recall and F1: confusion.png and report.csv.

With thousands of classes report.csv has each one; in the picture several neighbours share a cell.
"""

import csv
import itertools
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from torch.nn import functional
from torchmetrics.functional.classification import multiclass_confusion_matrix
from torchmetrics.utilities.plot import plot_confusion_matrix

from src.engine.loggers.pictures import EvaluationPicture, Evaluated, as_label, class_names, new_figure

SCORES = ("precision", "recall", "f1")
MAX_ANNOTATED = 25  # classes; with more, cells show colour only
MAX_NAMES, MAX_CELLS = 100, 1_000  # beside an axis; along it


class ClassReport(EvaluationPicture):
    """Draws the confusion matrix and, beside it, precision, recall and F1 of each class; writes these to report.csv.

    Classes have the names that the data module has in `class_names`.
    """

    def begin(self, batch: Evaluated) -> "Counts":
        return Counts()

    def add(self, seen: "Counts", batch: Evaluated) -> None:
        seen.add(batch)

    def draw_seen(self, trainer: Trainer, module: LightningModule, seen: Any, suffix: str) -> None:
        names = class_names(trainer)
        names = names if len(names) == len(seen.stats) else [str(number) for number in range(len(seen.stats))]
        rows = report(seen, names)
        path = Path(trainer.default_root_dir, f"report{suffix}.csv")
        with path.open("w", encoding="utf-8", errors="backslashreplace", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
        self.save(trainer, f"confusion{suffix}", plot_report(seen, names, self.title(suffix)))


class Counts:
    """The confusion matrix so far, and the counts of each class.

    Attributes:
        matrix: (M, M) int64, true classes by guessed ones; M is C, unless there are more than MAX_CELLS.
        per_cell: How many neighbouring classes share a row and a column of it.
        stats: (C, 3) int64: correct guesses, guesses and samples of each class.
    """

    def __init__(self) -> None:
        self.matrix = torch.zeros(0, 0, dtype=torch.int64)
        self.stats = torch.zeros(0, 3, dtype=torch.int64)
        self.per_cell = 1

    def add(self, batch: Evaluated) -> None:
        """Take in a batch."""
        seen = batch.guesses()
        self.grow(seen.num_classes)
        truth, guess = seen.truth // self.per_cell, seen.guess // self.per_cell
        self.matrix += multiclass_confusion_matrix(guess, truth, len(self.matrix), validate_args=False)
        columns = (seen.truth[seen.truth == seen.guess], seen.guess, seen.truth)
        self.stats += torch.stack([torch.bincount(each, minlength=len(self.stats)) for each in columns], dim=1)

    def merge_state(self, other: "Counts") -> None:
        """Take in what another process saw."""
        for one, another in ((self, other), (other, self)):
            one.grow(len(another.stats))
        self.matrix += other.matrix
        self.stats += other.stats

    def grow(self, num_classes: int) -> None:
        """Make room for more classes: where a step returned classes alone, a later batch may have a new one."""
        self.stats = functional.pad(self.stats, (0, 0, 0, max(num_classes - len(self.stats), 0)))
        while len(self.stats) > MAX_CELLS * self.per_cell:
            self.matrix = functional.pad(self.matrix, (0, len(self.matrix) % 2) * 2)
            half = len(self.matrix) // 2
            self.matrix = self.matrix.reshape(half, 2, half, 2).sum(dim=(1, 3))
            self.per_cell *= 2
        more = -(-len(self.stats) // self.per_cell) - len(self.matrix)
        self.matrix = functional.pad(self.matrix, (0, max(more, 0)) * 2)


def report(seen: Counts, names: list[str]) -> list[dict[str, Any]]:
    """Return precision, recall and F1 of each class, and their means over the classes that occur.

    Args:
        seen: The counts of C classes.
        names: C of them.
    """
    right, guesses, samples = seen.stats.double().unbind(dim=1)
    # A class that was never guessed has no precision: 0, as in torchmetrics.
    scores = (right / guesses.clamp(min=1), right / samples.clamp(min=1), 2 * right / (samples + guesses).clamp(min=1))
    table = torch.stack([*scores, samples, guesses], dim=1)
    mean = torch.cat([table[samples + guesses > 0, :3].mean(dim=0), table[:, 3:].sum(dim=0)])
    return [
        {"class": name}
        | {score: round(value, 4) for score, value in zip(SCORES, values, strict=False)}
        | {"samples": int(values[3]), "guesses": int(values[4])}
        for name, values in zip((*names, "mean"), (*table.tolist(), mean.tolist()), strict=True)
    ]


def plot_report(seen: Counts, names: list[str], of_what: str) -> Any:
    """Return a figure: the confusion matrix on the left, the report on the right.

    Args:
        seen: The counts of C classes.
        names: C of them.
        of_what: In the title.
    """
    rows, number = report(seen, names), len(names)
    short, every = number <= MAX_ANNOTATED, -(-number // MAX_NAMES)
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
    values = [[row[name] for name in SCORES] for row in rows[:-1]]
    right.imshow(values, cmap="Greens", vmin=0, vmax=1, alpha=0.4, aspect="auto")
    right.set_xticks(range(3), SCORES, rotation=45)
    right.set_yticks(())
    for row, column in itertools.product(range(number if short else 0), range(3)):
        right.text(column, row, f"{values[row][column]:.3f}", ha="center", va="center")
    for axes in (left, right):
        axes.tick_params(length=0)
        for text in (*axes.get_xticklabels(), *axes.get_yticklabels(), *axes.texts, axes.xaxis.label, axes.yaxis.label):
            text.set_fontsize(9 if short else 6)
    total = rows[-1]["samples"]
    accuracy = int(seen.stats[:, 0].sum()) / max(total, 1)
    shared = f"; {seen.per_cell} classes a cell" if seen.per_cell > 1 else ""
    figure.suptitle(
        f"{as_label(of_what)}: {accuracy:.2%} of {total:,} right, mean F1 {rows[-1]['f1']:.3f}{shared}",
        fontsize="large" if number > 3 else "medium",
    )
    return figure
