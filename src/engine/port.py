"""The port of the environment, where the processes of a run meet."""

import os
import socket

from lightning.pytorch import Trainer

from src.engine.errors import UserError


def check_port(trainer: Trainer) -> None:
    """See that the processes of a run can meet at the port that the environment names, before they are started.

    Raises:
        UserError: If it is no port, or another program has it.
    """
    port, environment = os.environ.get("MASTER_PORT"), getattr(trainer.strategy, "cluster_environment", None)
    # torchrun and SLURM see to theirs.
    if port is None or environment is None or environment.creates_processes_externally or environment.node_rank():
        return
    if not port.isdecimal() or not 0 < int(port) < 65_536:
        raise UserError(
            f"MASTER_PORT={port!r} in the environment is no port (1 to 65535). Unset it: a free one is taken."
        )
    with socket.socket() as server:
        # As torch does: a port whose last connections just closed is free.
        server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            server.bind(("", int(port)))
        except OSError as error:
            raise UserError(
                f"MASTER_PORT={port} in the environment cannot be used ({error.strerror}): another run or program may "
                "have it. Unset it, and a free one is taken, or set another."
            ) from error
