"""Linters report mistakes in your own files; in the engine also style and types."""

import subprocess
import sys

import pytest

from tests.conftest import PROJECT
from tests.copies import copy_of_project, lint

YOURS = ("src/models/mine.py", "src/losses.py", "tests/test_mine.py")
OURS = ("src/engine/mine.py", "src/cli.py")
STYLE = """import os
import json
from typing import List

def f(a: List, path="x"):
    if a == True: path = "y"; print(path)
    l = lambda: {json.dumps(each) for each in a}
    return os.path.exists(path), l
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


@pytest.mark.parametrize("name", YOURS)
def test_your_files_are_checked_for_mistakes(name):
    assert codes(STYLE, name) == set()
    assert codes(MISTAKES, name) == {"F401", "F821", "B006", "B904", "E722"}


@pytest.mark.parametrize("name", OURS)
def test_engine_is_checked_for_style(name):
    assert {"D100", "D103", "E701", "E712", "E731", "I001", "PTH110", "UP006"} <= codes(STYLE, name)


@pytest.mark.slow
def test_types_are_strict_in_the_engine(tmp_path):
    folder = copy_of_project(tmp_path)
    names = [f"src/{room}/probe.py" for room in ("engine", "tools", "models", "data")]
    for name in names:
        (folder / name).write_text("def f(x): ...\n\n\nnumber: int = 'x'\n")
    said = lint(folder, "mypy").stdout
    for name in names:
        found = {code for code in ("no-untyped-def", "assignment") if f"[{code}]" in said and name in said}
        assert found == ({"no-untyped-def", "assignment"} if name.startswith(("src/engine", "src/tools")) else set())
