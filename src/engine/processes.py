"""Tell processes apart: which one writes, and what is reported when one of them fails."""

import logging
import os
import signal
import time
from subprocess import Popen

import torch
from lightning.pytorch import Trainer
from lightning.pytorch.utilities import rank_zero_only


def is_rank_zero() -> bool:
    """Return whether this is the process that prints and writes; known before there is a trainer."""
    if "RANK" in os.environ:  # torchrun's, over all machines
        return int(os.environ["RANK"]) == 0
    node = int(os.environ.get("NODE_RANK", os.environ.get("GROUP_RANK", 0)))
    return node == 0 and getattr(rank_zero_only, "rank", 0) == 0


def leave_the_seed_to_rank_zero() -> None:
    """Let rank zero alone print the seed."""
    if not is_rank_zero():
        logging.getLogger("lightning.fabric").setLevel(logging.WARNING)


def record_for_torchrun(error: BaseException) -> None:
    """Let torchrun's report name the error of the process that failed first."""
    if "TORCHELASTIC_ERROR_FILE" in os.environ:
        from torch.distributed.elastic.multiprocessing.errors import get_error_handler

        get_error_handler().record_exception(error)


def lost_another(error: BaseException) -> bool:
    """Return whether a process failed only because another one of the run did; gloo has no class for it."""
    return isinstance(error, torch.distributed.DistError) or "gloo/transport" in str(error)


def note_killed_processes(trainer: Trainer, error: BaseException) -> None:
    """Add a note to an error for each process that Lightning started here and a signal ended: it printed nothing."""
    children = [child for child in getattr(trainer.strategy.launcher, "procs", []) if isinstance(child, Popen)]
    time.sleep(0.5 if children else 0)  # the connection to one that dies is lost before it is dead
    for rank, child in enumerate(children, start=1):
        if (code := child.poll() or 0) < 0:
            name = signal.Signals(-code).name
            error.add_note(f"local rank {rank} was ended by {name}{' (out of memory?)' * (name == 'SIGKILL')}")
