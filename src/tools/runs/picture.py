"""The curves of several runs as a picture."""

import math
import sys
from pathlib import Path

from src.tools.runs.curves import Curve


def draw_picture(path: Path, runs: dict[str, dict[str, Curve]]) -> None:
    """Draw a panel for each quantity (loss, acc), with the training dotted, and a colour for each run.

    Args:
        path: Of the picture; its ending says which kind.
        runs: The curves of each run, by the name that the legend has.
    """
    try:
        import matplotlib
        from matplotlib.figure import Figure
    except ModuleNotFoundError:
        sys.exit("error: --picture needs matplotlib: python -m pip install matplotlib")
    names = [name for curves in runs.values() for name in curves if name.partition("/")[0] in ("train", "val")]
    panels = list(dict.fromkeys(name.partition("/")[2] for name in names))
    if not panels:
        sys.exit("error: --picture: these runs have no curves.")
    columns = min(len(panels), 3)
    rows = math.ceil(len(panels) / columns)
    figure = Figure(figsize=(5 * columns, 3.5 * rows), layout="constrained")
    colours = matplotlib.color_sequences["tab10"]
    for number, panel in enumerate(panels, start=1):
        axes = figure.add_subplot(rows, columns, number)
        for index, (run, curves) in enumerate(runs.items()):
            for stage, style in (("val", "-"), ("train", ":")):
                points = curves.get(f"{stage}/{panel}", [])
                label = f"{run}, {stage}"
                steps, values = [x for x, _ in points], [y for _, y in points]
                if points:
                    axes.plot(steps, values, style, color=colours[index % len(colours)], label=label)
        axes.set(title=panel, xlabel="step")
        axes.grid(alpha=0.3)
        axes.legend(fontsize="small")
    try:
        figure.savefig(path, dpi=150)
    except (OSError, ValueError) as error:
        sys.exit(f"error: --picture {path}: {' '.join(str(error).split())}")
