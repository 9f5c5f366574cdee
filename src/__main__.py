"""Starts the command line, `python -m src`: a verb of src/cli.py, or a program of src/tools by the name of its file."""

import importlib
import importlib.util
import io
import os
import signal
import sys
from types import FrameType

from src.engine.lightning_fixes.start import without_scipy_signal


def start() -> None:
    """Run what the first word names, and import nothing else."""
    before = signal.signal(signal.SIGINT, leave)
    for stream in (sys.stdout, sys.stderr):  # a name that the terminal cannot show is written by its number
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    word = sys.argv[1] if len(sys.argv) > 1 else ""
    if word.isidentifier() and importlib.util.find_spec(f"src.tools.{word}"):
        module, arguments = importlib.import_module(f"src.tools.{word}"), [sys.argv[2:]]
    else:
        with without_scipy_signal():
            module, arguments = importlib.import_module("src.cli"), []
    signal.signal(signal.SIGINT, before)
    module.main(*arguments)


def leave(number: int, frame: FrameType | None) -> None:
    """End at once: an exception amid an import may be taken for a package that is missing."""
    os.write(2, b"SIGINT while starting; nothing was begun\n")
    os._exit(128 + number)


if __name__ == "__main__":
    start()
