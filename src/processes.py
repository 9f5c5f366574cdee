"""When several processes meet the same error it is told once."""

import os
import socket
import sys
from datetime import timedelta

from torch.distributed import TCPStore, is_initialized  # type: ignore[attr-defined]


def leave_if_told(error: BaseException) -> None:
    """End this process without a word if another one of the run was first with the very same error.

    The processes agree on it in the store where they met. With torchrun the error goes into its closing report, too.
    """
    if _is_told(error):
        sys.exit(1)


def _is_told(error: BaseException) -> bool:
    if "TORCHELASTIC_ERROR_FILE" in os.environ:
        from torch.distributed.elastic.multiprocessing.errors import get_error_handler

        get_error_handler().record_exception(error)
    if "MASTER_ADDR" not in os.environ or "MASTER_PORT" not in os.environ:
        return False
    address, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    try:
        # torch waits long for a store that is gone.
        socket.create_connection((address, port), timeout=5).close()
        store = TCPStore(address, port, is_master=False, timeout=timedelta(seconds=5))
        return int(store.add(f"error/{attempt}/{type(error).__name__}: {error}", 1)) > 1
    except (OSError, RuntimeError):
        # The store ends with rank zero: if it was there once, rank zero had an error of its own.
        return is_initialized()
