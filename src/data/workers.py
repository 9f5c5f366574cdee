"""For a project of an older template, whose README asked for this `worker_init_fn`; delete the file if you have none."""


def leave_signals_to_the_run(worker_id: int) -> None:
    """Nothing: each worker leaves signals to the run by itself, whatever function it is given.

    Args:
        worker_id: 0 to the number of workers - 1.
    """
