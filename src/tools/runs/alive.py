"""Whether a run that says it is running is: by its process on this machine, elsewhere by what it wrote last."""

import math
import os
import platform
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

# A fit writes its checkpoint every ten minutes, if its options do not say otherwise.
SILENT_S = 30 * 60


def judge(process: dict[str, Any], updated_s: float, folder: Path) -> tuple[str, str | None]:
    """The state of a run that says it is running, and why.

    Args:
        process: Of the run's summary: `host`, `pid`, the `room` where pids are counted, the `ticks` when it began.
        updated_s: When it wrote its summary, in seconds since 1970.
        folder: The run's.
    """
    room = Path("/proc/self/ns/pid")
    here = {"host": platform.node(), "room": str(room.readlink()) if room.is_symlink() else None}
    alive = is_alive(process, updated_s) if here.items() <= process.items() else None
    if alive is not None:
        gone = "its process is gone: it was killed, or the machine went down"
        return ("running", None) if alive else ("failed", gone)
    signs = [folder / name for name in ("summary.json", "metrics.csv", "checkpoints/last.ckpt")]
    ago_s = [time.time() - at_s for at_s in (updated_s, *(path.stat().st_mtime for path in signs if path.exists()))]
    # A clock there may run ahead; if it is far ahead, the disk's own may know better.
    silent_s = max(min((each for each in ago_s if each > -SILENT_S), default=0.0), 0.0)
    told = f"on {process['host']}, last sign {in_words(silent_s)} ago"
    return ("running", told) if silent_s < SILENT_S else ("failed", f"{told}: taken for killed")


def is_alive(process: dict[str, Any], at_s: float) -> bool | None:
    """Whether a process of this machine is there, and its number not another's; None where the system does not tell.

    Args:
        process: Its `pid`, and its `ticks` where they are known.
        at_s: When it was there, in seconds since 1970.
    """
    if sys.platform == "win32":  # there os.kill would end it
        return None
    try:
        os.kill(process["pid"], 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass  # somebody else's
    if process["ticks"] is None:
        return _is_older(process["pid"], at_s)
    try:
        stat = Path(f"/proc/{process['pid']}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    state, *fields = stat.rpartition(")")[2].split()
    return state not in "ZX" and int(fields[18]) == process["ticks"]  # Z: has ended, and nobody asked for its code


def _is_older(pid: int, at_s: float) -> bool | None:
    command = ["ps", "-o", "stat=,lstart=", "-p", str(pid)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, env=os.environ | {"LC_ALL": "C"})
        state, _, began = done.stdout.strip().partition(" ")
        began_s = time.mktime(time.strptime(began.strip(), "%a %b %d %H:%M:%S %Y"))
    except (OSError, ValueError, subprocess.SubprocessError):
        return None
    return not state.startswith("Z") and began_s <= at_s + 2  # ps tells it to a second


def in_words(seconds: float) -> str:
    """A time: "2.2 s", "4 min", "2.5 h", "3.2 days"."""
    if not 60 <= seconds < math.inf:  # also what is no number
        return f"{seconds:.1f} s"
    if seconds < 3_600:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3_600:.1f} h" if seconds < 86_400 else f"{seconds / 86_400:.1f} days"
