"""Whether a run that says it is running is: by its process on this machine, elsewhere by what it wrote last."""

import os
import platform
import re
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
        process: Of the run's summary: its host, its pid, and the room in which pids are counted.
        updated_s: When it wrote its summary, in seconds since 1970.
        folder: The run's.
    """
    room = Path("/proc/self/ns/pid")
    here = {"host": platform.node(), "room": str(room.readlink()) if room.is_symlink() else None}
    alive = is_alive(process["pid"], updated_s) if here.items() <= process.items() else None
    if alive is not None:
        return (
            ("running", None) if alive else ("failed", "its process is gone: it was killed, or the machine went down")
        )
    signs = [folder / name for name in ("summary.json", "metrics.csv", "checkpoints/last.ckpt")]
    silent_s = time.time() - max([updated_s, *(path.stat().st_mtime for path in signs if path.exists())])
    told = f"on {process['host']}, last sign {in_words(silent_s)} ago"
    return ("running", told) if silent_s < SILENT_S else ("failed", f"{told}: taken for killed")


def is_alive(pid: int, at_s: float) -> bool | None:
    """Whether the process that had this number at some time still has it; None where the system does not tell.

    Args:
        pid: Its number.
        at_s: The time, in seconds since 1970: who began later is another.
    """
    if sys.platform == "win32":  # there os.kill would end it
        return None
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass  # somebody else's
    began = _began_linux(pid) if Path("/proc/self/stat").exists() else _began_by_ps(pid)
    return None if began is None else began <= at_s + 2  # the system tells it to a second


def _began_linux(pid: int) -> float | None:
    """When it began; infinity if it has ended and waits to be reaped."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
        boot = re.search(r"^btime (\d+)$", Path("/proc/stat").read_text(encoding="utf-8"), re.MULTILINE)
    except OSError:
        return None
    if fields[0] in "ZX":
        return float("inf")
    return int(boot[1]) + int(fields[19]) / os.sysconf("SC_CLK_TCK") if boot else None


def _began_by_ps(pid: int) -> float | None:
    command = ["ps", "-o", "stat=,lstart=", "-p", str(pid)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, env=os.environ | {"LC_ALL": "C"})
        state, _, began = done.stdout.strip().partition(" ")
        return float("inf") if state[:1] == "Z" else time.mktime(time.strptime(began.strip(), "%a %b %d %H:%M:%S %Y"))
    except (OSError, ValueError, subprocess.SubprocessError):
        return None


def in_words(seconds: float) -> str:
    """A time: "2.2 s", "4 min", "2.5 h", "3.2 days"."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    if seconds < 3_600:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3_600:.1f} h" if seconds < 86_400 else f"{seconds / 86_400:.1f} days"
