"""The curves of several runs as a picture."""

import math
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from src.tools.runs.curves import Curve, spans_decades
from src.tools.runs.table import cut

if TYPE_CHECKING:
    from matplotlib.figure import Figure

STAGE = re.compile(r"(train|val)(?:id|idation)?[/_](.+)", re.DOTALL)
MOST = 24  # panels; of a metric of each class there may be thousands


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
    drawn = sorted(panels, key=lambda panel: (panel.count("/"), panel))[:MOST]
    if len(drawn) < len(panels):
        print(f"the picture has {len(drawn)} of {len(panels)} quantities, those of no class first", file=sys.stderr)
    panels = {panel: panels[panel] for panel in drawn}
    columns = min(len(panels), 3)
    rows = math.ceil(len(panels) / columns)
    figure = Figure(figsize=(5 * columns, 3.5 * rows), layout="constrained")
    for number, (panel, lines) in enumerate(sorted(panels.items()), start=1):
        axes = figure.add_subplot(rows, columns, number)
        for run, stage, curve, colour in lines:
            steps, values = zip(*curve, strict=True)
            few = "." if len(curve) < 30 else ""
            label = as_label(f"{run}, {stage}")
            axes.plot(steps, values, "-" if stage == "val" else ":", marker=few, color=colour, label=label)
        axes.set(title=as_label(panel), xlabel="step")
        if spans_decades([value for _, _, curve, _ in lines for _, value in curve if math.isfinite(value)]):
            axes.set_yscale("log")
            axes.yaxis.set_major_formatter("{x:g}")  # by default a formula
        axes.grid(alpha=0.3)
        axes.legend(fontsize="small")
    return figure


def as_label(name: str) -> str:
    """A name as matplotlib draws it letter by letter: a dollar begins no formula. A very long one is cut."""
    text = "".join(letter if letter.isprintable() else "?" for letter in " ".join(name.split()))
    return cut(text, 60).replace("$", r"\$")
