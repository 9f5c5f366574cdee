"""Learning curves: curves.png, whenever a fit ends."""

import csv
import math
import re
import sys
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lightning.pytorch import LightningModule, Trainer

from src.engine.loggers.pictures import Picture, as_label, new_figure
from src.engine.run.run import stage_of

COLORS = {"train": "C0", "val": "C1", "test": "C2"}
RATE = "learning rate"
MAX_PANELS = 30  # a run may have thousands of metrics


class Curves(Picture):
    """Draws metrics.csv: a panel for the loss and for each metric, train and val, and one for the learning rate.

    It also draws a fit that a signal or an error ended.
    """

    def draw(self, trainer: Trainer, module: LightningModule) -> None:
        path = Path(trainer.default_root_dir, "metrics.csv")
        # A test or a validation alone has no curve, nor has a fit that ended in its first epoch.
        if self.run.verb == "fit" and path.exists():
            if rows := [*csv.DictReader(path.read_text(encoding="utf-8").splitlines())]:
                self.save(trainer, "curves", plot_curves(rows))

    def on_exception(self, trainer: Trainer, module: LightningModule, exception: BaseException) -> None:
        if trainer.is_global_zero:
            with self.attempt():
                self.draw(trainer, module)


def plot_curves(rows: Sequence[Mapping[str, str]]) -> Any:
    """Return a figure of the rows of metrics.csv: column to text, empty where a row has no value."""
    epochs = [row["epoch"] for row in rows if row.get("lr")]
    x = "epoch" if len(set(epochs)) == len(epochs) else "step"  # rows within an epoch share its number
    panels: dict[str, dict[str, list[tuple[float, float]]]] = defaultdict(dict)
    for column in dict.fromkeys(name for row in rows for name in row if name not in ("epoch", "step")):
        if points := [(float(row[x]), float(row[column])) for row in rows if row.get(column)]:
            panel, label = place_of(column)
            panels[panel][column if label in panels[panel] else label] = points  # loss_step beside loss_epoch
    names = sorted(panels, key=lambda name: (name != "loss", name == RATE))
    if len(names) > MAX_PANELS:
        print(f"note: curves.png has {MAX_PANELS} of {len(names)} metrics", file=sys.stderr)
        names = names[:MAX_PANELS]
    columns = min(len(names), 3)
    lines = -(-len(names) // columns)
    figure = new_figure(3.4 * columns, 2.8 * lines)
    for number, name in enumerate(names):
        axes = figure.add_subplot(lines, columns, number + 1, title=as_label(name), xlabel=x)
        for label in sorted(panels[name], key=lambda label: (*COLORS, label).index(label)):
            xs, ys = zip(*panels[name][label], strict=True)
            marker = "D" if label.startswith("test") else "." if len(xs) < 40 else ""
            color = COLORS[label] if set(panels[name]) <= set(COLORS) else None  # one curve for each stage
            axes.plot(xs, ys, color=color, label=as_label(label), marker=marker, markersize=5)
        if len(panels[name]) <= 12:  # more would hide the curves
            axes.legend(fontsize="small")
        axes.grid(alpha=0.3)
        values = [y for points in panels[name].values() for _, y in points if math.isfinite(y)]
        if name != RATE and values and min(values) > 0 and max(values) > 30 * min(values):
            axes.set_yscale("log")
            axes.yaxis.set_major_formatter("{x:g}")  # by default a formula
    return figure


def place_of(column: str) -> tuple[str, str]:
    """Return the panel of a column of metrics.csv and its name there: `val/acc/night` is `val night` in `acc`."""
    if column == "lr" or column.startswith("lr/"):
        return RATE, column
    name, _, rest = re.sub(r"^(train|val|test)(ing|id|idation)?[/_]", "", column).partition("/")
    name = re.sub(r"_(epoch|step)$", "", name) or column  # a name may begin with a slash
    return name, " ".join([stage_of(column), *rest.split("/")]).strip()
