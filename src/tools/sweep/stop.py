"""A signal between two trials ends a sweep in good order, as one within a fit does."""

import contextlib
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from types import FrameType

STOP = ("SIGINT", "SIGTERM", "SIGHUP")
FREE = (signal.SIG_DFL, signal.default_int_handler)


@contextlib.contextmanager
def leaving_in_order() -> Iterator[Callable[[], None]]:
    """Leave at a signal by SystemExit, at once.

    Python swallows what is raised while it collects garbage, and much is collected after a trial.

    Yields:
        What leaves for a signal that was swallowed so.
    """
    got: list[int] = []

    def leave(number: int, frame: FrameType | None) -> None:
        got.append(number)
        sys.exit(128 + number)

    def leave_late() -> None:
        if got:
            sys.exit(128 + got[0])

    numbers = [getattr(signal, name) for name in STOP if hasattr(signal, name)]
    mine = threading.current_thread() is threading.main_thread()
    before = {number: signal.getsignal(number) for number in numbers if mine and signal.getsignal(number) in FREE}
    for number in before:
        signal.signal(number, leave)
    try:
        yield leave_late
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
