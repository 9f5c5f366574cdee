"""Lists all runs in a table, compares some, shows one: `python -m src runs`, `runs compare xor mnist`, `runs show xor`.

It reads the files that a run leaves in its folder, and imports neither torch nor Lightning.
"""

import importlib
import os
import sys


def main(args: list[str]) -> None:
    """Do what the first word says; without `compare` or `show` it is a list."""
    word, rest = (args[0], args[1:]) if args[:1] in (["compare"], ["show"]) else ("listing", args)
    # A name may hold what the terminal cannot show.
    sys.stdout.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
    try:
        importlib.import_module(f"{__name__}.{word}").main(rest)
        sys.stdout.flush()
    except BrokenPipeError:  # `| head` has read enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
