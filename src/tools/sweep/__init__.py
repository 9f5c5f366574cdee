"""Searches a space of options by many fits: `sweep --config configs/mnist.yaml --sweep configs/sweep/mnist.yaml`.

Each trial is an ordinary run in `runs/<experiment>/sweep_<n>/version_<k>/`; a killed sweep goes on with --resume.
"""

import argparse
import sys
from pathlib import Path
from typing import NoReturn

MAX_FAILURES = 3


class Parser(argparse.ArgumentParser):
    """Says a mistake in one line."""

    def error(self, message: str) -> NoReturn:
        sys.exit(f"error: {message}")


def parse(args: list[str]) -> tuple[argparse.Namespace, list[str]]:
    """The sweep's own options, and those of fit.

    Args:
        args: What follows `python -m src sweep`.
    """
    parser = Parser(
        prog="python -m src sweep",
        usage="%(prog)s --config FILE --sweep FILE [options] [any option of fit]\n"
        "       %(prog)s --resume FOLDER [--trials N] [--workers W] [--storage WHERE]",
        description=__doc__,
        allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add(
        "--sweep",
        metavar="FILE",
        help="YAML with the space, as configs/sweep/mnist.yaml; also metric, direction, sampler, pruner, trials",
    )
    add("--trials", type=int, metavar="N", help="how many, in all; by default as the YAML says, else 20")
    add(
        "--workers",
        type=int,
        default=1,
        metavar="W",
        help="processes on this machine, spread over its GPUs; default: 1",
    )
    add("--resume", type=Path, metavar="FOLDER", help="go on with a sweep, or join it from another machine; "
        "with --sweep it is begun in this folder if need be")  # fmt: skip
    add("--storage", metavar="WHERE", help="sqlite (default) or journal (for a shared disk), files in the sweep's "
        "folder; or a database, postgresql://host/name")  # fmt: skip
    add(
        "--max_failures",
        type=int,
        default=MAX_FAILURES,
        metavar="N",
        help="stop after so many failed trials in a row; default: 3",
    )
    add("--worker", metavar="CREW", help=argparse.SUPPRESS)
    own, options = parser.parse_known_args(args)
    for name in ("trials", "workers", "max_failures"):
        if (value := getattr(own, name)) is not None and value < 1:
            parser.error(f"--{name} {value}: must be at least 1")
    if own.sweep is None and own.resume is None:
        parser.error("--sweep FILE is missing: a YAML with the space. Or go on with one: --resume FOLDER")
    return own, options


def main(args: list[str]) -> None:
    """Begin a sweep, or go on with one; print a line per trial and a table at the end.

    Args:
        args: What follows `python -m src sweep`.
    """
    own, options = parse(args)
    # Optuna and torch: the help needs neither.
    from src.tools.sweep.begin import begin
    from src.tools.sweep.crew import be_a_worker, run

    if own.worker:
        be_a_worker(own.resume, own.worker, own.max_failures)
    elif code := run(begin(own, options), own.workers, own.max_failures):
        sys.exit(code)
