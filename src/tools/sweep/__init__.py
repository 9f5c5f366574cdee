"""Searches a space of options by many fits: `sweep --config configs/mnist.yaml --sweep configs/sweep/mnist.yaml`.

Each trial is an ordinary run in `runs/<experiment>/sweep_<n>/version_<k>/`, on one device. A sweep that was stopped or
killed is continued by --resume; an interrupted trial continues from its own checkpoint.
"""

from pathlib import Path

from src.tools.common import Parser, needs, refuse
from src.tools.common.fits import working_on


def main(args: list[str]) -> None:
    """Begin or continue a sweep; print a line per trial and a table at the end."""
    usage = """%(prog)s --config FILE --sweep FILE [options] [any option of fit]
       %(prog)s --resume FOLDER [--trials N] [--workers W]"""
    parser = Parser("python -m src sweep", usage=usage, description=__doc__)
    add = parser.add_argument
    add("-c", "--config", metavar="FILE", action="append", help="YAML of an experiment, as of fit")
    add(
        "--sweep",
        metavar="FILE",
        help="YAML with space, metric, direction, sampler, pruner and trials; configs/sweep/mnist.yaml explains it",
    )
    add("--trials", type=int, metavar="N", help="how many in all; default: as the YAML says, else 20")
    add("--workers", type=int, default=1, metavar="W", help="processes, spread over the GPUs; default: 1")
    add("--resume", type=Path, metavar="FOLDER", help="continue a sweep; with a --storage another machine may join it")
    add(
        "--storage",
        metavar="URL",
        help="postgresql://host/name: the database of a study that several machines share, "
        "by Optuna's heartbeat and retry, which are experimental",
    )
    add("--max_failures", type=int, default=3, metavar="N", help="stop after so many failures in a row; default: 3")
    own, options = parser.parse_known_args(args)
    for name in ("trials", "workers", "max_failures"):
        if (value := getattr(own, name)) is not None and value < 1:
            refuse(f"--{name} {value}: must be at least 1.")
    if (own.sweep is None) == (own.resume is None):
        refuse("--sweep FILE, a YAML with the space, begins a sweep; --resume FOLDER continues one. Give one of them.")
    if own.resume and (options or own.config or own.storage):
        refuse("--resume continues a sweep as it began: leave out all but --trials, --workers and --max_failures.")
    needs(["optuna", "sqlalchemy"], "pip install 'optuna>=5,<6' sqlalchemy")
    from src.tools.sweep.plan import begin, read_sweep  # Optuna and torch, which the help does not need
    from src.tools.sweep.results import close
    from src.tools.sweep.search import Search, search_here, search_with_others
    from src.tools.sweep.workers import search_with_workers

    sweep = begin(own, options) if own.sweep else read_sweep(own.resume, own.trials)
    shared = bool(sweep.plan["storage"])
    if shared and own.workers > 1:
        refuse("--workers: with --storage start a command for each GPU, by CUDA_VISIBLE_DEVICES and --resume.")
    with working_on(sweep.folder, "sweep", shared) as again:
        search = Search(sweep, own.max_failures)
        sweep.save()
        print(f"sweep {sweep.folder}: {sweep.trials} trials; to continue after a stop: {again}", flush=True)
        if shared:
            search_with_others(search)
        elif own.workers > 1:
            search_with_workers(search, own.workers)
        else:
            search_here(search)
        close(sweep, search.study, again)
