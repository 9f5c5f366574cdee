"""Tell the process that prints and writes from the others; collect values of all."""

import atexit
import os
from typing import Any

import torch
from lightning.pytorch.utilities import rank_zero_only


def is_rank_zero() -> bool:
    """Return whether this is the process that prints and writes; known before there is a trainer."""
    if "RANK" in os.environ:  # torchrun's, over all machines
        return int(os.environ["RANK"]) == 0
    node = int(os.environ.get("NODE_RANK", os.environ.get("GROUP_RANK", 0)))
    return node == 0 and getattr(rank_zero_only, "rank", 0) == 0


def gather(value: Any, world_size: int) -> list[Any]:
    """Collect the values of all ranks on rank zero, in their order; all call it together."""
    values = [value] * world_size
    if world_size > 1:
        torch.distributed.gather_object(value, values if torch.distributed.get_rank() == 0 else None)
    return values


@atexit.register
def end_process_group() -> None:
    """Destroy the process group of gloo, whose threads abort some processes that end without that."""
    if torch.distributed.is_initialized() and torch.distributed.get_backend() == "gloo":
        torch.distributed.destroy_process_group()
