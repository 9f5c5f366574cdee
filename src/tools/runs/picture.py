"""The curves of several runs as a picture."""

import math
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from src.tools.runs.curves import Curve, spans_decades

if TYPE_CHECKING:
    from matplotlib.figure import Figure

STAGE = re.compile(r"(train|val)(?:id|idation)?[/_](.+)")


def draw_picture(path: Path, runs: dict[str, dict[str, Curve]]) -> None:
    """Draw the curves into a file; ends the program where that cannot be.

    Args:
        path: Of the picture; its ending says which kind.
        runs: The curves of each run, by the name that the legend has.
    """
    try:
        figure = figure_of(runs)
        figure.savefig(path, dpi=150)
    except ModuleNotFoundError:
        sys.exit("error: --picture needs matplotlib: python -m pip install matplotlib")
    except (OSError, ValueError) as error:
        sys.exit(f"error: --picture {path}: {' '.join(str(error).split())}")


def figure_of(runs: dict[str, dict[str, Curve]]) -> "Figure":
    """A panel for each quantity (loss, acc), with the training dotted, and a colour for each run.

    Raises:
        ValueError: If there is nothing to draw.
    """
    from matplotlib.figure import Figure

    panels: dict[str, list[tuple[str, str, Curve, str]]] = {}
    for number, (run, curves) in enumerate(runs.items()):
        for name, curve in curves.items():
            if found := STAGE.fullmatch(name):
                panels.setdefault(found[2], []).append((run, found[1], curve, f"C{number}"))
    if not panels:
        raise ValueError("these runs have no curves")
    columns = min(len(panels), 3)
    rows = math.ceil(len(panels) / columns)
    figure = Figure(figsize=(5 * columns, 3.5 * rows), layout="constrained")
    for number, (panel, lines) in enumerate(sorted(panels.items()), start=1):
        axes = figure.add_subplot(rows, columns, number)
        for run, stage, curve, colour in lines:
            steps, values = zip(*curve, strict=True)
            few = "." if len(curve) < 30 else ""
            axes.plot(steps, values, "-" if stage == "val" else ":", marker=few, color=colour, label=f"{run}, {stage}")
        axes.set(title=panel, xlabel="step")
        if spans_decades([value for _, _, curve, _ in lines for _, value in curve if math.isfinite(value)]):
            axes.set_yscale("log")
        axes.grid(alpha=0.3)
        axes.legend(fontsize="small")
    return figure
