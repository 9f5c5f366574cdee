"""Lists all runs in a table, compares some, or shows one: `runs`, `runs compare xor mnist`, `runs show xor`.

It reads the files in each run's folder, and imports neither torch nor Lightning.
"""

import os
import sys

from src.tools.runs import compare, listing


def main(args: list[str]) -> None:
    """Compare runs if the first word is `compare`, or `show` for one of them; list them otherwise."""
    try:
        compare.main(args[1:]) if args[:1] in (["compare"], ["show"]) else listing.main(args)
        sys.stdout.flush()
    except BrokenPipeError:  # `| head` has read enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
