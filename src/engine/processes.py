"""Several processes: which one speaks, and how the others leave when one of them failed."""

import contextlib
import logging
import os
import signal
import socket
import subprocess
import sys
from datetime import timedelta

import torch
from lightning.pytorch import Trainer
from lightning.pytorch.utilities import rank_zero_only
from torch.distributed import TCPStore, is_initialized

CHILD_ENDS_WITHIN_S = 20


def is_rank_zero() -> bool:
    """Whether this is the process that prints and writes; known before there is a trainer."""
    if "RANK" in os.environ:  # torchrun's, over all machines
        return int(os.environ["RANK"]) == 0
    node = int(os.environ.get("NODE_RANK", os.environ.get("GROUP_RANK", 0)))
    return node == 0 and getattr(rank_zero_only, "rank", 0) == 0


def leave_the_seed_to_rank_zero() -> None:
    """Let rank zero alone tell that the seed is set."""
    if not is_rank_zero():
        logging.getLogger("lightning.fabric").setLevel(logging.WARNING)


def leave_if_told(error: BaseException) -> None:
    """End this process without a word if another one of the run was first with the very same error.

    Without this eight GPUs print a mistyped option eight times. The processes agree in the store where they met; with
    torchrun the error goes into its closing report, too.
    """
    if _is_told(error):
        sys.exit(1)


def _is_told(error: BaseException) -> bool:
    if "TORCHELASTIC_ERROR_FILE" in os.environ:
        from torch.distributed.elastic.multiprocessing.errors import get_error_handler

        get_error_handler().record_exception(error)
    address, port = os.environ.get("MASTER_ADDR"), os.environ.get("MASTER_PORT", "")
    # A process that runs alone has nobody to be told by, whatever store is at that port.
    alone = os.environ.get("WORLD_SIZE", "1") == "1" and not is_initialized()
    if alone or not address or not port.isdecimal():
        return False
    attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    try:
        # torch waits long for a store that is gone.
        socket.create_connection((address, int(port)), timeout=5).close()
        store = TCPStore(address, int(port), is_master=False, timeout=timedelta(seconds=5))
        return int(store.add(f"error/{attempt}/{type(error).__name__}: {error}", 1)) > 1
    except (OSError, RuntimeError):
        # The store ends with rank zero: if it was there once, rank zero had an error of its own.
        return is_initialized()


def leave_if_another_was_lost(trainer: Trainer, error: BaseException) -> None:
    """End this process without a word if it failed because another one did: that one's error stays the last.

    One that was killed cannot tell: the process that started it does.

    Args:
        trainer: Of a run on several processes.
        error: What this process met.
    """
    # NCCL and the store have classes for it, gloo has only words.
    lost = isinstance(error, torch.distributed.DistError) or "gloo/transport" in str(error)
    if trainer.world_size == 1 or not lost:
        return
    # Those that Lightning started; torchrun and SLURM tell of theirs.
    for rank, child in enumerate(getattr(trainer.strategy.launcher, "procs", []), start=1):
        code = 0
        with contextlib.suppress(subprocess.TimeoutExpired):
            code = child.wait(CHILD_ENDS_WITHIN_S)
        if code < 0:
            name = signal.Signals(-code).name
            reason = ": the system does so when memory runs out" if name == "SIGKILL" else ""
            print(f"error: local rank {rank} (pid {child.pid}) was ended by {name}{reason}", file=sys.stderr)
    sys.exit(1)
