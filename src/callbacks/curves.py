"""Learning curves: curves.png, whenever a fit ends."""

import csv
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lightning.pytorch import LightningModule, Trainer

from src.engine.pictures import Picture, new_figure

STAGE = r"(?:(?P<stage>train|val|test)(?:ing|id|idation)?[/_])?"
COLUMN = re.compile(STAGE + r"(?P<name>[^/]+?)(?:_epoch|_step)?(?P<rest>/.*)?")
COLORS = {"train": "C0", "val": "C1", "test": "C2"}
RATE = "learning rate"


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
            rows = list(csv.DictReader(file))
        if rows:
            self.save(trainer, "curves", plot_curves(rows))

    def on_exception(self, trainer: Trainer, module: LightningModule, exception: BaseException) -> None:
        if trainer.is_global_zero:
            self.attempt(lambda: self.draw(trainer, module))


def plot_curves(rows: Sequence[Mapping[str, str]]) -> Any:
    """A figure of the rows of metrics.csv.

    Args:
        rows: Column to text; empty where a row has no value.
    """
    trained = [row for row in rows if row.get("lr")]
    # Rows amid an epoch share its number.
    x = "epoch" if len({row["epoch"] for row in trained}) == len(trained) else "step"
    panels: dict[str, dict[str, list[tuple[float, float]]]] = {}
    for column in dict.fromkeys(name for row in rows for name in row if name not in ("epoch", "step")):
        panel, label = place_of(column)
        points = [(float(row[x]), float(row[column])) for row in rows if row.get(column)]
        panels.setdefault(panel, {})[label] = points
    names = sorted(panels, key=lambda name: (name != "loss", name == RATE))
    columns = min(len(names), 3)
    lines = -(-len(names) // columns)
    figure = new_figure(3.4 * columns, 2.8 * lines, margins=(0.65, 0.5, 0.15, 0.35))
    figure.subplots_adjust(wspace=0.3, hspace=0.45)
    for number, name in enumerate(names):
        axes = figure.add_subplot(lines, columns, number + 1, title=name, xlabel=x)
        _paint(axes, panels[name])
        values = [y for points in panels[name].values() for _, y in points if math.isfinite(y)]
        if name != RATE and values and min(values) > 0 and max(values) > 30 * min(values):
            axes.set_yscale("log")
    return figure


def _paint(axes: Any, curves: dict[str, list[tuple[float, float]]]) -> None:
    """Draw the curves of a panel; the color tells the stage, where each stage has one curve."""
    of_stages = set(curves) <= set(COLORS)
    for label in sorted(curves, key=lambda label: (*COLORS, label).index(label)):
        xs, ys = zip(*curves[label], strict=True)
        marker = "D" if label.startswith("test") else "." if len(xs) < 40 else ""
        axes.plot(xs, ys, color=COLORS[label] if of_stages else None, label=label, marker=marker, markersize=5)
    if len(curves) <= 12:  # more would hide the curves
        axes.legend(fontsize="small")
    axes.grid(alpha=0.3)


def place_of(column: str) -> tuple[str, str]:
    """The panel of a column of metrics.csv, and its name there: `val/acc/night` is `val night` in the panel `acc`."""
    if column == "lr" or column.startswith("lr/"):
        return RATE, column
    found = COLUMN.fullmatch(column)
    stage, rest = found["stage"] or "train", (found["rest"] or "").replace("/", " ")
    return found["name"], stage + rest
