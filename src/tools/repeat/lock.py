"""One process at a time works on a repeat."""

import os
from pathlib import Path

from src.tools.repeat.plan import refuse

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]


def hold(folder: Path) -> int | None:
    """Take the repeat for this process, and for those that get what this returns: the last one to end gives it back.

    Returns:
        A file's number; None where the system has no such locks.
    """
    if fcntl is None:
        return None
    lock = os.open(folder / ".lock", os.O_RDWR | os.O_CREAT)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        refuse(f"another process works on {folder}: wait for it, or end it.")
    return lock
