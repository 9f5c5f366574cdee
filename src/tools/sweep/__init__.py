"""Searches a space of options by many fits: `sweep --config configs/mnist.yaml --sweep configs/sweep/mnist.yaml`.

Each trial is an ordinary run in `runs/<experiment>/sweep_<n>/version_<k>/`, on one device. A sweep that was stopped or
killed is continued by --resume; an interrupted trial continues from its own checkpoint. A new sweep takes every option
of `fit`.
"""

import sys
from pathlib import Path

from jsonargparse.typing import PositiveInt

from src.tools.common import Parser, needs, refuse
from src.tools.common.fits import working_on


def main(args: list[str]) -> None:
    """Begin or continue a sweep; print a line per trial and a table at the end."""
    parser = Parser("python -m src sweep", description=__doc__)
    add = parser.add_argument
    add("-c", "--config", metavar="FILE", action="append", help="YAML of an experiment, as of fit")
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--sweep", metavar="FILE", help="begin, as a YAML says; configs/sweep/mnist.yaml explains it")
    about = "continue a sweep; with a --storage another machine may join it"
    what.add_argument("--resume", type=Path, metavar="FOLDER", help=about)
    add("--trials", type=PositiveInt, metavar="N", help="how many in all; default: as the YAML says, else 20")
    add("--workers", type=PositiveInt, default=1, metavar="W", help="processes, spread over the GPUs; default: 1")
    add("--storage", metavar="URL", help="postgresql://host/name: a database that machines share (experimental)")
    own, options = parser.parse_known_args(args)
    if own.resume and (options or own.config or own.storage):
        refuse("--resume continues a sweep as it began: leave out all but --trials and --workers.")
    needs(["optuna", "sqlalchemy"], "pip install 'optuna>=5,<6' sqlalchemy")
    from src.tools.sweep.plan import begin, read_sweep  # Optuna and torch, which the help does not need
    from src.tools.sweep.results import close
    from src.tools.sweep.search import Search, search_here, search_with_others
    from src.tools.sweep.workers import search_with_workers

    sweep = begin(own, options) if own.sweep else read_sweep(own.resume)
    sweep.trials = min(own.trials or sweep.trials, len(sweep.grid) or sys.maxsize)
    shared = bool(sweep.plan["storage"])
    if shared and own.workers > 1:
        refuse("--workers: with --storage start a command for each GPU, by CUDA_VISIBLE_DEVICES and --resume.")
    with working_on(sweep.folder, "sweep", shared) as again:
        search = Search(sweep)
        sweep.save()
        print(f"sweep {sweep.folder}: {sweep.trials} trials; to continue after a stop: {again}", flush=True)
        if shared:
            search_with_others(search)
        elif own.workers > 1:
            search_with_workers(search, own.workers)
        else:
            search_here(search)
        close(sweep, search.study, again)
