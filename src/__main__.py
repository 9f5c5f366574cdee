"""Starts the command line, `python -m src`: a verb of src/cli.py, or a program of src/tools by the name of its file."""

import importlib
import importlib.util
import sys


def start() -> None:
    """Import what the first word names, and nothing else."""
    word = sys.argv[1] if len(sys.argv) > 1 else ""
    if word.isidentifier() and importlib.util.find_spec(f"src.tools.{word}"):
        importlib.import_module(f"src.tools.{word}").main(sys.argv[2:])
    else:
        importlib.import_module("src.cli").main()


if __name__ == "__main__":
    start()
