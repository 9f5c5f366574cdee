"""The states of a process's random generators, as a checkpoint keeps them."""

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

_aside: list[dict[str, Any]] = []


@contextmanager
def aside() -> Iterator[None]:
    """Keep the states of now for a block that seeds the generators: a checkpoint saved within it holds those."""
    _aside.append(random_state())
    try:
        yield
    finally:
        _aside.pop()


def random_state() -> dict[str, Any]:
    """The states of this process's generators, as plain values; within `aside()` those from before it."""
    if _aside:
        return _aside[0]
    version, numbers, gauss = random.getstate()
    legacy: Any = np.random.get_state(legacy=False)
    return {
        "torch": torch.get_rng_state(),
        "cuda": [state.cpu() for state in torch.cuda.get_rng_state_all()] if torch.cuda.is_available() else [],
        "mps": torch.mps.get_rng_state().cpu() if torch.mps.is_available() else None,
        "python": [version, torch.tensor(numbers), gauss],
        "numpy": legacy
        | {"state": {"key": torch.from_numpy(legacy["state"]["key"].astype(np.int64))}}
        | {"pos": int(legacy["state"]["pos"]), "gauss": float(legacy["gauss"]), "has_gauss": int(legacy["has_gauss"])},
    }


def set_random_state(state: dict[str, Any]) -> None:
    """Put the generators back.

    Args:
        state: As `random_state` gives it. CUDA devices that are not here are left out.
    """
    torch.set_rng_state(state["torch"].cpu())
    for device, value in enumerate(state["cuda"][: torch.cuda.device_count()]):
        torch.cuda.set_rng_state(value.cpu(), device)
    if state.get("mps") is not None and torch.mps.is_available():
        torch.mps.set_rng_state(state["mps"].cpu())
    version, numbers, gauss = state["python"]
    random.setstate((version, tuple(numbers.tolist()), gauss))
    numpy = state["numpy"]
    key = numpy["state"]["key"].cpu().numpy().astype(np.uint32)
    np.random.set_state(numpy | {"state": {"key": key, "pos": numpy["pos"]}})
