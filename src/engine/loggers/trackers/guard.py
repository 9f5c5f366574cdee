"""A tracker whose server goes away amid training costs its own numbers, never the fit."""

import functools
import sys
import time
from collections.abc import Callable
from typing import Any

from lightning.pytorch.loggers import Logger

from src.engine.errors import one_line

# Lightning asks a logger for these while a run goes on.
METHODS = ("log_metrics", "log_hyperparams", "log_graph", "save", "finalize", "after_save_checkpoint")
PAUSE_S = 60.0


def forgive(logger: Logger) -> None:
    """Let a failure of this logger be a warning; it is left alone for a minute then, and tried again."""
    guard = Guard(type(logger).__name__)
    for name in METHODS:
        setattr(logger, name, guard.around(getattr(logger, name)))


class Guard:
    """What one tracker's calls have in common.

    Args:
        name: Of the tracker, for the warning.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self._told = False
        self._again_s = 0.0

    def around(self, method: Callable[..., Any]) -> Callable[..., Any]:
        """The same method; what it raises is told once."""

        @functools.wraps(method)
        def forgiving(*args: Any, **kwargs: Any) -> Any:
            # Each attempt at a server that is gone may take many seconds.
            if time.monotonic() < self._again_s:
                return None
            try:
                return method(*args, **kwargs)
            except Exception as error:  # each tracker has classes of its own
                self._again_s = time.monotonic() + PAUSE_S
                if not self._told:
                    why = one_line(error).rstrip(".")
                    told = f"warning: {self.name}: {why}. The run goes on; metrics.csv has its numbers."
                    print(told, file=sys.stderr, flush=True)
                self._told = True
                return None

        return forgiving
