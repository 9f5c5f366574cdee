"""Judge whether a run that has not written its end is still running: by the time of what it wrote last."""

import math
from pathlib import Path

# A fit writes its checkpoint every ten minutes, if its options do not say otherwise.
SILENT_S = 30 * 60
# What a run writes as it goes.
SIGNS = ("summary.json", "metrics.csv", "checkpoints/last.ckpt")


def judge(host: str, updated_s: float, folder: Path, now_s: float) -> tuple[str, str]:
    """Return the state, `running` or `failed`, and the reason.

    Args:
        host: The machine that the run is on.
        updated_s: When it wrote its summary, in seconds since 1970 by the clock of that machine.
        folder: The run's.
        now_s: The time here, in seconds since 1970.
    """
    written_s = [(folder / name).stat().st_mtime for name in SIGNS if (folder / name).exists()]
    ago_s = [now_s - at_s for at_s in (updated_s, *written_s)]
    # A clock there may run ahead; if it is far ahead, the times of the files may be right.
    silent_s = max(min((each for each in ago_s if each > -SILENT_S), default=0.0), 0.0)
    reason = f"on {host}, silent for {in_words(silent_s)}"
    return ("running", reason) if silent_s < SILENT_S else ("failed", f"{reason}: taken for killed")


def in_words(seconds: float) -> str:
    """Return a time in words: "2.2 s", "4 min", "2.5 h", "3.2 days"."""
    if not 60 <= seconds < math.inf:  # also what is no number
        return f"{seconds:.1f} s"
    if seconds < 3_600:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3_600:.1f} h" if seconds < 86_400 else f"{seconds / 86_400:.1f} days"
