"""Wall time and peak memory of a block, the same for every run that is compared."""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

try:
    import resource
except ImportError:  # Windows
    resource = None  # type: ignore[assignment]


@contextmanager
def stopwatch(result: dict[str, Any]) -> Iterator[None]:
    """Add `seconds`, the block's wall time, and `peak_mib`, the most memory this process has held up to its end.

    Windows does not tell the memory: there it is NaN.

    Args:
        result: Where they go.
    """
    start_s = time.perf_counter()
    yield
    result["seconds"] = time.perf_counter() - start_s
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss if resource else float("nan")
    result["peak_mib"] = peak / (1024**2 if sys.platform == "darwin" else 1024)  # bytes there, KiB elsewhere
