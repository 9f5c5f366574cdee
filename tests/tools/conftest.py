"""A fixture for the tests of tools."""

import importlib
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import Done


@pytest.fixture
def tool(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Callable[..., Done]:
    """Run `python -m src TOOL ...` in this process, in an empty folder."""
    monkeypatch.chdir(tmp_path)

    def run(name: str, *args: object) -> Done:
        capfd.readouterr()
        code: object = 0
        try:
            importlib.import_module(f"src.tools.{name}").main([str(arg) for arg in args])
        except SystemExit as stop:
            code = stop.code if isinstance(stop.code, int) else print(stop.code, file=sys.stderr) or 1
        return Done(code, *capfd.readouterr(), {})

    return run
