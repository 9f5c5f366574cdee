"""One process at a time works on a repeat."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from src.tools.common import refuse

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]


@contextmanager
def hold(folder: Path) -> Iterator[int | None]:
    """Take the repeat for this process, and for those that get what this yields: the last one to end gives it back.

    Yields:
        A file's number; None where the system has no such locks.
    """
    if fcntl is None:
        yield None
        return
    lock = os.open(folder / ".lock", os.O_RDWR | os.O_CREAT)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(lock)
        refuse(f"another process works on {folder}: wait for it, or end it.")
    try:
        yield lock
    finally:
        os.close(lock)
