"""Copies of the project that tests may change, and Python in them."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import PROJECT


def copy_of_project(folder: Path) -> Path:
    names = ["git", "ls-files", "-z", "--cached"]
    listed = subprocess.run(names, cwd=PROJECT, capture_output=True, text=True, check=False)
    if listed.returncode != 0:
        pytest.skip("not a git checkout")
    for name in filter(None, listed.stdout.split("\0")):
        if (PROJECT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(PROJECT / name, folder / name)
    return folder


def lint(cwd: Path, tool: str, *args: object) -> subprocess.CompletedProcess[str]:
    """Run ruff or mypy in a copy; mypy reuses this project's cache, which saves half a minute."""
    known, cache = PROJECT / ".mypy_cache", cwd / ".mypy_cache"
    if tool == "mypy" and known.is_dir() and not cache.exists():
        shutil.copytree(known, cache)
    return python("-m", tool, *args, cwd=cwd)


def python(*args: object, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Run Python in a copy, with `src` and `tests` of the copy."""
    command = [sys.executable, *map(str, args)]
    environment = os.environ | {"PYTHONPATH": str(cwd)}
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=3_000, check=False)
