"""Tell the process that prints and writes from the others."""

import os

from lightning.pytorch.utilities import rank_zero_only


def is_rank_zero() -> bool:
    """Return whether this is the process that prints and writes; known before there is a trainer."""
    if "RANK" in os.environ:  # torchrun's, over all machines
        return int(os.environ["RANK"]) == 0
    node = int(os.environ.get("NODE_RANK", os.environ.get("GROUP_RANK", 0)))
    return node == 0 and getattr(rank_zero_only, "rank", 0) == 0
