"""The linters: ordinary files of one's own are green, mistakes in them are told, the engine's rooms are strict."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import PROJECT
from tests.copies import copy_of_project, lint

# Written as newcomers write: no docstrings, few types, packages that are not installed here, lambdas, long lines.
NEWCOMER = PROJECT / "tests/newcomer"


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """A copy of the project with a newcomer's files, and their paths."""
    folder = copy_of_project(tmp_path_factory.mktemp("project"))
    files = {path: f"src/{path.relative_to(NEWCOMER)}" for path in sorted(NEWCOMER.rglob("*.py"))}
    files[NEWCOMER / "check_mine.py"] = "tests/test_mine.py"
    for path, name in files.items():
        shutil.copy(path, folder / name)
    assert len(files) == 10
    return folder, list(files.values())


def test_the_style_of_ordinary_files_is_green_and_their_format_is_made_so(project):
    folder, files = project
    done = lint(folder, "ruff", "check", "--no-cache", *files)
    assert done.returncode == 0, done.stdout
    assert lint(folder, "ruff", "format", "--check", "--no-cache", *files).returncode == 1
    # The linters are here already.
    make = ["make", "--old-file=.venv/ready", "format", f"BIN={Path(sys.executable).parent}"]
    made = subprocess.run(make, cwd=folder, capture_output=True, text=True, check=False)
    assert made.returncode == 0, made.stdout + made.stderr
    for command in (["check"], ["format", "--check"]):
        done = lint(folder, "ruff", *command, "--no-cache", *files)
        assert done.returncode == 0, done.stdout


@pytest.mark.slow
def test_the_types_of_ordinary_files_are_green(project):
    folder, files = project
    done = lint(folder, "mypy", *[name for name in files if name.startswith("src/")])
    assert done.returncode == 0, done.stdout


def codes(text, name):
    """What ruff says of a file of that name."""
    command = [sys.executable, "-m", "ruff", "check", "--output-format=concise", "--stdin-filename", name, "-"]
    done = subprocess.run(command, cwd=PROJECT, input=text, capture_output=True, text=True, check=False)
    return {line.split(": ")[1].split()[0] for line in done.stdout.splitlines() if line.startswith(name)}


@pytest.mark.parametrize("name", ["src/models/mine.py", "src/losses.py", "src/module.py", "tests/test_mine.py"])
def test_a_mistake_in_ones_own_file_is_told(name):
    assert codes("import os\n\n\ndef f():\n    return missing\n", name) == {"F401", "F821"}


TASTE = """import os
import json
from typing import List

def f(a: List = [], path="x"):
    l = lambda: {json.dumps(each) for each in a}
    return os.path.exists(path), l
"""


@pytest.mark.parametrize("name", ["src/models/mine.py", "src/losses.py", "src/module.py", "tests/test_mine.py"])
def test_taste_is_free_in_ones_own_file(name):
    assert codes(TASTE, name) == set()


@pytest.mark.parametrize("name", ["src/engine/mine.py", "src/tools/mine.py", "src/cli.py", "src/__main__.py"])
def test_taste_is_held_in_the_engines_rooms(name):
    assert codes(TASTE, name) == {"B006", "D100", "D103", "E731", "E741", "I001", "PTH110", "UP006", "UP035"}


def test_taste_is_held_in_the_engines_tests_but_for_docstrings():
    assert codes(TASTE, "tests/engine/mine.py") == {"B006", "E731", "E741", "I001", "PTH110", "UP006", "UP035"}


# A line for each code that is silent in one's own files, and what only `strict` says.
TYPES = {
    "import-not-found": "import a_package_that_is_nowhere",
    "var-annotated": "values = []",
    "assignment": "number: int = 'x'",
    "return-value": "def f() -> int: return 'x'",
    "index": "def f(x: int) -> None: x[0]",
    "operator": "def f(x: int) -> None: x + 'x'",
    "attr-defined": "def f(x: int) -> None: x.nothing",
    "union-attr": "def f(x: str | int) -> None: x.upper()",
    "override": "class A(Exception):\n    def add_note(self) -> None: ...",
    "arg-type": "def f(x: str | None) -> None: len(x)",
    "no-untyped-def": "def f(x): ...",
    "type-arg": "def f(x: list) -> None: ...",
}


@pytest.mark.slow
def test_types_are_held_in_the_engine_and_calls_everywhere(project):
    folder, _ = project
    names = [f"src/{room}/probe{number}.py" for room in ("engine", "data") for number in range(len(TYPES))]
    for name, text in zip(names, [*TYPES.values()] * 2, strict=True):
        (folder / name).write_text(f"{text}\n")
    calls = "def g(x: int) -> None: ...\n\n\ndef h() -> None:\n    g(1, 2)\n"
    (folder / "src/data/probe.py").write_text(calls)
    said = lint(folder, "mypy", *names, "src/data/probe.py").stdout
    for number, code in enumerate(TYPES):
        assert any(f"engine/probe{number}.py" in line and f"[{code}]" in line for line in said.splitlines()), code
    (mine,) = [line for line in said.splitlines() if line.startswith("src/data")]
    assert "[call-arg]" in mine
    assert "src/data/probe.py:5" in mine
