"""Paths: `~` in any option, how they are shown for pasting, and files that are written whole or not at all."""

import os
import shlex
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
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


@contextmanager
def write_whole(path: Path) -> Iterator[Path]:
    """Give a file to write to, which takes the place of `path` when the block ends without an error."""
    part = path.with_name(f".{path.name}.part")
    try:
        yield part
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
