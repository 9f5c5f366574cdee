"""Rows as lines, no wider than the terminal."""

import shutil

WITHOUT_TERMINAL = 240  # what a pipe or a file gets
NARROWEST = 24  # a column that is cut keeps so many letters


def lines(table: list[list[str]]) -> list[str]:
    """A line for each row, the columns under each other.

    Long values lose their middle; of more columns than there is room for the first are shown, and a last line says how
    many are not.

    Args:
        table: Rows of the same length; the first are the names.
    """
    room = shutil.get_terminal_size((WITHOUT_TERMINAL, 24)).columns
    columns = [[" ".join(value.split()) for value in column] for column in zip(*table, strict=True)]
    widths = [max(map(len, column)) for column in columns]
    # The widest gives way first.
    for k in sorted(range(len(widths)), key=widths.__getitem__, reverse=True):
        over = sum(widths) + 2 * (len(widths) - 1) - room
        widths[k] = max(min(widths[k], NARROWEST), widths[k] - max(over, 0))
    shown = max(1, sum(sum(widths[: k + 1]) + 2 * k <= room for k in range(len(widths))))
    columns = [
        [_cut(value, width).ljust(width) for value in column] for column, width in zip(columns, widths, strict=True)
    ]
    said = ["  ".join(row).rstrip() for row in zip(*columns[:shown], strict=True)]
    left = len(columns) - shown
    return [*said, *([f"... and {left} more column{'s' * (left > 1)}"] if left else [])]


def _cut(value: str, width: int) -> str:
    if len(value) <= width:
        return value
    head = (width - 3) // 2
    return f"{value[:head]}...{value[len(value) - (width - 3 - head) :]}"
