"""Start `python -m src`: a verb of src/cli.py, or a program of src/tools or src/examples by the name of its file."""

import ast
import importlib
import io
import os
import re
import signal
import sys
from pathlib import Path
from types import FrameType

HELP = """usage: python -m src VERB [options]

Train and use a net that a YAML file describes. Begin with: python -m src fit --config configs/<name>.yaml

    fit         Train a net, or resume a run (--ckpt_path runs/<name>/version_0)
    validate    Compute the metrics on the validation data
    test        Compute the metrics on the test data (--ckpt_path runs/<name>/version_0 is enough)
    predict     Score new data, print a table and write predictions.csv
"""


def start() -> None:
    """Run the verb or program that the first word names, and import nothing else."""
    for stream in (sys.stdout, sys.stderr):  # escape characters that the terminal cannot show
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    word = sys.argv[1] if len(sys.argv) > 1 else "--help"
    here = Path(__file__).parent
    known = {name: (part, text) for part in ("tools", "examples") for name, text in programs(here / part).items()}
    if word in ("-h", "--help"):
        print(HELP, *(f"    {name:<12}{text}\n" for name, (_, text) in known.items()), sep="", end="")
        return
    before = signal.signal(signal.SIGINT, leave)
    if word in known:
        module, arguments = importlib.import_module(f"src.{known[word][0]}.{word}"), [sys.argv[2:]]
    else:
        module, arguments = importlib.import_module("src.cli"), []
    signal.signal(signal.SIGINT, before)
    try:
        module.main(*arguments)
    except SystemExit as stop:
        if isinstance(stop.code, int) and stop.code > 128:  # saved and leaving: the same signal again changes nothing
            signal.signal(stop.code - 128, signal.SIG_IGN)
        raise


def programs(folder: Path) -> dict[str, str]:
    """Return the first phrase of each program's docstring by its name, without importing it."""
    files = {file.stem: file for file in folder.glob("[a-z]*.py")}
    files |= {file.parent.name: file for file in folder.glob("[a-z]*/__init__.py")}
    texts = {name: file.read_text(encoding="utf-8") for name, file in sorted(files.items())}
    says = {name: ast.get_docstring(ast.parse(text)) for name, text in texts.items() if "\ndef main(" in text}
    return {name: re.split(r"[:.](?=\s|$)|\n", text or "")[0] for name, text in says.items()}


def leave(number: int, frame: FrameType | None) -> None:
    """Exit at once; an exception during an import could look like a missing package."""
    os.write(2, b"SIGINT while starting; nothing was begun\n")
    os._exit(128 + number)


if __name__ == "__main__":
    start()
