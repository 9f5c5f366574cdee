"""Paths: the home folder, how they are shown for pasting, and files that are written whole or not at all."""

import os
import shlex
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def at_home(path: str | os.PathLike[str]) -> Path:
    """Put the home folder in place of `~`; pathlib's own fails where `~name` is nobody's."""
    return Path(os.path.expanduser(path))  # noqa: PTH111


def shorten(path: str | Path) -> Path:
    """Return the path as seen from the current folder."""
    there, here = Path(path).absolute(), Path.cwd()
    return there.relative_to(here) if there.is_relative_to(here) else there


def pasted(path: str | Path) -> str:
    """Return the path as a shell reads it, with what it takes for a space or a quote."""
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
