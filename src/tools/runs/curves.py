"""The numbers of a run over its steps, from metrics.csv, and as a plot of letters.

A run may have a million rows and thousands of columns: what is kept of them is bounded.
"""

import csv
import itertools
import math
from bisect import bisect_right
from operator import itemgetter
from pathlib import Path

Curve = list[tuple[float, float]]
# Stretches of rows, of all columns together and of one.
MOST, MOST_OF_ONE = 1_000_000, 4_000


def read_curves(folder: Path) -> dict[str, Curve]:
    """The points (step, value) of each column of metrics.csv; none where there is no file.

    Of a long curve those stay that a plot shows: the lowest, the highest and the last of each stretch of rows.

    Raises:
        ValueError: If there stands what is no number.
    """
    path = folder / "metrics.csv"
    curves: dict[str, Curve] = {}
    if not path.exists():
        return curves
    with path.open(newline="", encoding="utf-8") as file:
        num_columns, num_rows = file.readline().count(",") + 1, sum(1 for _ in file)
        every = -(-num_rows // max(min(MOST // num_columns, MOST_OF_ONE), 1))
        file.seek(0)
        table = csv.DictReader(file)
        while rows := list(itertools.islice(table, max(every, 1))):
            steps = [float(row.get("step") or row.get("epoch") or 0) for row in rows]
            for name in table.fieldnames or []:
                points = [(step, float(row[name])) for step, row in zip(steps, rows, strict=True) if row[name]]
                if points and name != "step":
                    curves.setdefault(name, []).extend(ends_of(points))
    return curves


def ends_of(points: Curve) -> Curve:
    """The lowest, the highest and the last of some points, in their order."""
    numbers = [point for point in points if not math.isnan(point[1])] or points
    kept = {min(numbers, key=itemgetter(1)), max(numbers, key=itemgetter(1)), points[-1]}
    return [point for point in points if point in kept]


def draw(curves: dict[str, Curve], width: int, height: int = 12) -> list[str]:
    """Curves as lines of text, on a logarithmic scale where the values ask for it.

    Args:
        curves: By the letter that draws it. What is no finite number is left out.
        width: Of a line.
        height: Lines of the plot, without the axis.
    """
    curves = {letter: [point for point in curve if all(map(math.isfinite, point))] for letter, curve in curves.items()}
    points = [point for curve in curves.values() for point in curve]
    if not points:
        return ["no points"]
    low, high = min(y for _, y in points), max(y for _, y in points)
    log = spans_decades([y for _, y in points])
    unit = 1.0 if math.isfinite(high - low) else 2.0

    def scaled(y: float) -> float:
        return math.log(y) if log else y / unit

    span = scaled(high) - scaled(low) or 1.0
    left, right = min(x for x, _ in points), max(x for x, _ in points)
    labels = [f"{high:.4g}", f"{low:.4g}"]
    margin = max(map(len, labels))
    columns = max(width - margin - 3, 20)
    grid = [[" "] * columns for _ in range(height)]
    for letter, curve in curves.items():
        for column in range(columns):
            y = between(curve, left + (right - left) * column / (columns - 1), (right - left) / (columns - 1) / 2)
            if y is not None:
                row = round((scaled(high) - scaled(y)) / span * (height - 1))
                grid[row][column] = letter if grid[row][column] == " " else "#"
    ends = [labels[0], *[""] * (height - 2), labels[1]]
    lines = [f"{label:>{margin}} | {''.join(row)}".rstrip() for label, row in zip(ends, grid, strict=True)]
    axis = f"{left:,.0f}{f'step {right:,.0f}':>{columns - len(f'{left:,.0f}')}}"
    scale = ["logarithmic scale"] if log else []
    several = [f"# {' and '.join(curves)} meet"] if any("#" in row for row in grid) else []
    lines += [f"{'':>{margin}} +{'-' * (columns + 1)}", f"{'':>{margin}}   {axis}"]
    return lines + ([f"{'':>{margin}}   {', '.join([*scale, *several])}"] if scale or several else [])


def spans_decades(values: list[float]) -> bool:
    """Whether values are seen only on a logarithmic scale."""
    return bool(values) and min(values) > 0 and max(values) / min(values) > 50


def between(curve: Curve, x: float, margin: float) -> float | None:
    """The value at x on the line between two points; None beyond the ends, but for a margin."""
    if not curve or x < curve[0][0] - margin or x > curve[-1][0] + margin:
        return None
    behind = bisect_right(curve, x, key=lambda point: point[0])
    (x0, y0), (x1, y1) = curve[max(behind - 1, 0)], curve[min(behind, len(curve) - 1)]
    part = (x - x0) / (x1 - x0) if x1 > x0 else 0.0
    return y0 * (1 - part) + y1 * part
