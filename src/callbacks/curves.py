"""Learning curves: curves.png, whenever a fit ends.

A run may have a million rows and thousands of metrics: what is kept of them is bounded.
"""

import csv
import itertools
import math
import re
import sys
from collections.abc import Iterable, Mapping
from operator import itemgetter
from pathlib import Path
from typing import Any

from lightning.pytorch import LightningModule, Trainer

from src.engine.loggers.pictures import Picture, as_label, new_figure

STAGE = r"(?:(?P<stage>train|val|test)(?:ing|id|idation)?[/_])?"
COLUMN = re.compile(STAGE + r"(?P<name>[^/]+?)(?:_epoch|_step)?(?P<rest>/.*)?", re.DOTALL)
COLORS = {"train": "C0", "val": "C1", "test": "C2"}
RATE = "learning rate"
# Panels; stretches of rows, of all columns together and of one.
MOST_PANELS, MOST, MOST_OF_ONE = 30, 500_000, 4_000
Points = list[tuple[float, float, float]]  # epoch, step, value


class Curves(Picture):
    """Draws what metrics.csv holds: a panel for the loss and for each metric, train and val, and one for the rate.

    Also of a fit that a signal or an error ended.
    """

    def draw(self, trainer: Trainer, module: LightningModule) -> None:
        path = Path(trainer.default_root_dir, "metrics.csv")
        # A test or a validation of its own has no curve, nor has a fit that ended in its first epoch.
        if self.run.verb != "fit" or not path.exists():
            return
        with path.open(newline="", encoding="utf-8") as file:
            num_columns, num_rows = file.readline().count(",") + 1, sum(1 for _ in file)
            if num_rows:
                file.seek(0)
                every = -(-num_rows // max(min(MOST // num_columns, MOST_OF_ONE), 1))
                self.save(trainer, "curves", plot_curves(csv.DictReader(file), every))

    def on_exception(self, trainer: Trainer, module: LightningModule, exception: BaseException) -> None:
        if trainer.is_global_zero:
            self.attempt(lambda: self.draw(trainer, module))


def plot_curves(rows: Iterable[Mapping[str, str]], every: int = 1) -> Any:
    """A figure of the rows of metrics.csv.

    Args:
        rows: Column to text; empty where a row has no value.
        every: Of so many rows the lowest, the highest and the last value are drawn.
    """
    curves: dict[str, Points] = {}
    x, epoch = "epoch", ""
    rows = iter(rows)
    while stretch := list(itertools.islice(rows, every)):
        for row in stretch:
            if row.get("lr"):  # rows amid an epoch share its number
                x, epoch = "step" if row["epoch"] == epoch else x, row["epoch"]
        for column in dict.fromkeys(name for row in stretch for name in row if name not in ("epoch", "step")):
            there = [row for row in stretch if row.get(column)]
            points = [(float(row["epoch"]), float(row["step"]), float(row[column])) for row in there]
            curves.setdefault(column, []).extend(ends_of(points))
    panels: dict[str, dict[str, list[tuple[float, float]]]] = {}
    for column, points in curves.items():
        panel, label = place_of(column)
        label = column if label in panels.get(panel, {}) else label  # loss_step beside loss_epoch
        panels.setdefault(panel, {})[label] = [(point[x == "step"], point[2]) for point in points]
    names = sorted(panels, key=lambda name: (name != "loss", name == RATE))
    if len(names) > MOST_PANELS:
        print(f"note: curves.png has {MOST_PANELS} of {len(names)} metrics", file=sys.stderr)
        names = names[:MOST_PANELS]
    columns = min(len(names), 3)
    lines = -(-len(names) // columns)
    figure = new_figure(3.4 * columns, 2.8 * lines, margins=(0.65, 0.5, 0.15, 0.35))
    figure.subplots_adjust(wspace=0.3, hspace=0.45)
    for number, name in enumerate(names):
        axes = figure.add_subplot(lines, columns, number + 1, title=as_label(name), xlabel=x)
        _paint(axes, panels[name])
        values = [y for points in panels[name].values() for _, y in points if math.isfinite(y)]
        if name != RATE and values and min(values) > 0 and max(values) > 30 * min(values):
            axes.set_yscale("log")
            axes.yaxis.set_major_formatter("{x:g}")  # by default a formula
    return figure


def ends_of(points: Points) -> Points:
    """The lowest, the highest and the last of some points, in their order."""
    if len(points) < 2:
        return points
    numbers = [point for point in points if not math.isnan(point[2])] or points
    kept = {min(numbers, key=itemgetter(2)), max(numbers, key=itemgetter(2)), points[-1]}
    return [point for point in points if point in kept]


def _paint(axes: Any, curves: dict[str, list[tuple[float, float]]]) -> None:
    """Draw the curves of a panel; the color tells the stage, where each stage has one curve."""
    of_stages = set(curves) <= set(COLORS)
    for label in sorted(curves, key=lambda label: (*COLORS, label).index(label)):
        xs, ys = zip(*curves[label], strict=True)
        marker = "D" if label.startswith("test") else "." if len(xs) < 40 else ""
        color = COLORS[label] if of_stages else None
        axes.plot(xs, ys, color=color, label=as_label(label), marker=marker, markersize=5)
    if len(curves) <= 12:  # more would hide the curves
        axes.legend(fontsize="small")
    axes.grid(alpha=0.3)


def place_of(column: str) -> tuple[str, str]:
    """The panel of a column of metrics.csv, and its name there: `val/acc/night` is `val night` in the panel `acc`."""
    if column == "lr" or column.startswith("lr/"):
        return RATE, column
    found = COLUMN.fullmatch(column)
    if not found:  # it begins with a slash
        return column, "train"
    stage, rest = found["stage"] or "train", (found["rest"] or "").replace("/", " ")
    return found["name"], stage + rest
