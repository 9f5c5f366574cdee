"""Paths: `~` in any option, and how they are shown, so that a user can paste them."""

import os
import shlex
import subprocess
from pathlib import Path
from typing import Any

from jsonargparse import Namespace


def expanded(value: Any) -> Any:
    """A value of the config with the home folder in place of `~`; a shell puts it only where a word begins with it.

    Args:
        value: Of any depth. A text is taken for a path if it begins with `~/`.
    """
    if isinstance(value, Namespace):
        copy = value.clone()
        for name, each in vars(value).items():
            copy[name] = expanded(each)
        return copy
    if isinstance(value, dict):
        return {name: expanded(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(expanded(each) for each in value)
    if isinstance(value, Path):
        return at_home(value)
    return str(at_home(value)) if isinstance(value, str) and value.startswith("~/") else value


def at_home(path: str | os.PathLike[str]) -> Path:
    """The path with the home folder in place of `~`; pathlib's own fails where `~name` is nobody's."""
    return Path(os.path.expanduser(path))  # noqa: PTH111


def shorten(path: str | Path) -> Path:
    """The path as seen from the current folder."""
    there, here = Path(path).absolute(), Path.cwd()
    return there.relative_to(here) if there.is_relative_to(here) else there


def pasted(path: str | Path) -> str:
    """The path as a shell reads it, with what it takes for a space or a quote."""
    text = str(shorten(path))
    return subprocess.list2cmdline([text]) if os.name == "nt" else shlex.quote(text)
