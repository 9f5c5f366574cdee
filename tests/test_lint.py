"""The linter reports mistakes in your own files; in the engine also style and private names."""

import subprocess
import sys

from tests.conftest import PROJECT

STYLE = """import os
import json
from typing import List

def f(a: List, path="x"):
    if a == True: path = "y"; print(path)
    l = lambda: {json.dumps(each) for each in a}
    return os.path.exists(path), l, path._flavour
"""
MISTAKES = """import os


def f(values=[]):
    try:
        return missing
    except:
        raise ValueError("no")
"""


def codes(text, name):
    """Return the codes that ruff reports for a file of that name."""
    command = [sys.executable, "-m", "ruff", "check", "--output-format=concise", "--stdin-filename", name, "-"]
    done = subprocess.run(command, cwd=PROJECT, input=text, capture_output=True, text=True, check=False)
    return {line.split(": ")[1].split()[0] for line in done.stdout.splitlines() if line.startswith(name)}


def test_your_files_are_checked_for_mistakes_and_the_engine_for_style_too():
    for name in ("src/models/mine.py", "src/losses.py", "tests/test_mine.py"):
        assert codes(STYLE, name) == set()
        assert codes(MISTAKES, name) == {"F401", "F821", "B006", "B904", "E722"}
    for name in ("src/engine/mine.py", "src/cli.py"):
        assert {"D100", "D103", "E701", "E712", "E731", "I001", "PTH110", "SLF001", "UP006"} <= codes(STYLE, name)
