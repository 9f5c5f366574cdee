"""Workers of a DataLoader outlive a signal that reaches the whole job: the run needs them up to its next save."""

import atexit
import ctypes
import multiprocessing
import os
import signal
from collections.abc import Callable
from types import FrameType
from typing import Any

from torch.utils.data import get_worker_info

# Whether the run has ended or failed: from then on the SIGTERM that multiprocessing sends a worker ends it.
_over = multiprocessing.RawValue(ctypes.c_bool, False)


def keep_workers() -> None:
    """Begin a run, whose workers stay until it has saved."""
    _over.value = False


@atexit.register  # before multiprocessing ends, and waits for, those that are left
def let_workers_go() -> None:
    """Let workers end when they are asked to."""
    _over.value = True


class IgnoreSignals:
    """A DataLoader's `worker_init_fn` that leaves a job's signals to the run; a worker whose run is gone ends at once.

    A terminal's Ctrl-C, a scheduler's warning and SIGTERM go to every process of a job. Workers would die of them, and
    the run with them, before it can save.

    Args:
        then: The user's own function, called with the worker's number.
        dataset: That the user's function finds as `get_worker_info().dataset`.
    """

    def __init__(self, then: Callable[[int], Any] | None, dataset: Any) -> None:
        self.then, self.dataset = then, dataset
        self.over, self.run = _over, os.getpid()

    def __call__(self, worker: int) -> None:
        for name in ("SIGINT", "SIGUSR1", "SIGUSR2", "SIGHUP"):
            if hasattr(signal, name):  # Windows has but one of them
                signal.signal(getattr(signal, name), signal.SIG_IGN)
        signal.signal(signal.SIGTERM, self._receive)
        object.__setattr__(get_worker_info(), "dataset", self.dataset)
        if self.then:
            self.then(worker)

    def _receive(self, number: int, frame: FrameType | None) -> None:
        if self.over.value or os.getppid() != self.run:
            # As torch's own handler does: the process that waits for a worker takes a death by signal for an error.
            os._exit(0)
