"""Repairs of what is imported at the start of a command, before Lightning is."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType


@contextmanager
def without_scipy_signal() -> Iterator[None]:
    """Spare what torchmetrics imports without using it, 0.7 s of each start.

    Where SciPy is installed it looks whether `scipy.signal` has `hamming`, for the sake of a package that it does not
    import (torchmetrics issue 3457, open). A stand-in says yes; whoever imports the module later gets the real one.
    """
    name = "scipy.signal"
    stand_in = ModuleType(name)
    stand_in.hamming = None  # type: ignore[attr-defined]
    if sys.modules.setdefault(name, stand_in) is not stand_in:
        yield
        return
    try:
        yield
    finally:
        del sys.modules[name]
