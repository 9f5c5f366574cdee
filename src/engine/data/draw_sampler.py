"""A sampler of the user's, drawn whole at the start of an epoch: what it gives is a function of (seed, epoch)."""

import itertools
from typing import Any

import torch
from torch.utils.data import DataLoader

from src.engine.data.draws import apart, seed_all
from src.engine.errors import UserError

ENDLESS = 1_000_000


def draw_whole(sampler: Any, loader: DataLoader[Any], seed: int, epoch: int) -> list[Any]:
    """Draw with all generators seeded that a sampler may draw from: the process's, its own and its loader's.

    Args:
        sampler: Of indices or of batches of them.
        loader: It belongs to.
        seed: For this epoch.
        epoch: For a sampler with `set_epoch`.

    Raises:
        UserError: If it does not end.
    """
    with apart():
        seed_all(seed)
        for each in (loader, sampler, getattr(sampler, "sampler", None)):
            if isinstance(generator := getattr(each, "generator", None), torch.Generator):
                generator.manual_seed(seed)
            if callable(set_epoch := getattr(each, "set_epoch", None)):
                set_epoch(epoch)
        # Of one that never ends nothing would be seen but a process that grows.
        drawn = list(itertools.islice(sampler, None if hasattr(sampler, "__len__") else ENDLESS))
    if len(drawn) == ENDLESS and not hasattr(sampler, "__len__"):
        raise UserError(
            f"{type(sampler).__name__} goes on after {ENDLESS:,} indices. An epoch is drawn whole: a sampler has to "
            "end. If it does, give it a __len__."
        )
    return drawn
