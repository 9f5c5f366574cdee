"""Workers of a DataLoader outlive a signal that reaches the whole job: the run needs them up to its next save."""

import signal


def leave_signals_to_the_run(worker: int) -> None:
    """A DataLoader's `worker_init_fn`, for any with workers.

    A terminal's Ctrl-C, a scheduler's warning and SIGTERM go to every process of a job. Workers would die of them, and
    the run with them, before it can save. They end when the run does; a second SIGTERM ends them at once.

    Args:
        worker: Its number.
    """
    for name in ("SIGINT", "SIGUSR1", "SIGUSR2"):
        if hasattr(signal, name):  # Windows has but one of them
            signal.signal(getattr(signal, name), signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda number, frame: signal.signal(number, signal.SIG_DFL))
