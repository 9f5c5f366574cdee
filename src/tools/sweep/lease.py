"""Which process runs a trial: a lock that ends with the process, and a heartbeat for other machines.

On one machine the lock decides: the system lets it go when its process dies, by whatever. Some disks that machines
share keep locks on each machine by itself; whoever holds a trial therefore touches a file every few seconds, and
another machine takes over a trial only when that has stood still for a minute by its own clock.
"""

import contextlib
import os
import socket
import sys
import threading
import time
from pathlib import Path

from filelock import FileLock, Timeout

LEASES = ".leases"  # the folder for both, in the sweep's
BEAT_S = 10.0
SILENT_S = 60.0  # then it is dead
SETTLE_S = 2.0  # two machines that take over the same trial both see the later one's name


class Lease:
    """A trial in the hands of this process.

    Args:
        lock: Held.
        beat: The file to touch.
        crew: The sweep's processes that this one is one of.

    Attributes:
        before: The crew of the process that had it and died; empty where none did.
    """

    def __init__(self, lock: FileLock, beat: Path, crew: str) -> None:
        self._lock, self._beat = lock, beat
        self.before = owner(beat)[1]
        self._name = f"{socket.gethostname()} {crew} {os.getpid()}"
        self._done = threading.Event()
        beat.write_text(self._name, encoding="utf-8")
        threading.Thread(target=self._go_on, daemon=True).start()

    @property
    def is_mine(self) -> bool:
        """Whether no other machine took it over."""
        return self._beat.is_file() and self._beat.read_text(encoding="utf-8") == self._name

    def _go_on(self) -> None:
        while not self._done.wait(BEAT_S):
            if not (self.is_mine or self._done.is_set()):
                sys.stderr.write(f"{self._beat}: this process stood still, another machine took over its trial\n")
                os._exit(1)
            with contextlib.suppress(FileNotFoundError):  # released just now
                os.utime(self._beat)

    def release(self) -> None:
        """Let it go; whether the trial is done stands in the study."""
        self._done.set()
        self._beat.unlink(missing_ok=True)
        self._lock.release()


class Leases:
    """All trials of a sweep.

    Args:
        folder: Where their files lie.
        crew: What this process and those beside it are called.
    """

    def __init__(self, folder: Path, crew: str = "alone") -> None:
        self.folder, self.crew = folder, crew
        self._seen: dict[int, tuple[float, float]] = {}  # of each beat when it was last, and since when it is known

    def take(self, number: int) -> Lease | None:
        """A trial, unless another process has it."""
        self.folder.mkdir(exist_ok=True)
        beat, lock = self.folder / f"{number}.beat", FileLock(self.folder / f"{number}.lock")
        try:
            lock.acquire(blocking=False)
        except Timeout:
            return None
        elsewhere = owner(beat)[0] not in ("", socket.gethostname())
        if elsewhere and not self._is_silent(number, beat):
            lock.release()
            return None
        lease = Lease(lock, beat, self.crew)
        if elsewhere:
            time.sleep(SETTLE_S)
            if not lease.is_mine:
                lease.release()
                return None
        return lease

    def _is_silent(self, number: int, beat: Path) -> bool:
        last, now_s = beat.stat().st_mtime, time.monotonic()
        if self._seen.get(number, (0.0, 0.0))[0] != last:
            self._seen[number] = last, now_s
        return now_s - self._seen[number][1] > SILENT_S


def owner(beat: Path) -> tuple[str, str]:
    """Machine and crew of the process that has a trial, or had it when it died; ("", "") where none has."""
    words = beat.read_text(encoding="utf-8").split() if beat.is_file() else []
    return (words[0], words[1]) if len(words) > 1 else ("", "")
