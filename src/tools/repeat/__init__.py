"""Fits one config with several seeds or on several folds, and reports mean and spread.

    python -m src repeat --seeds 5 --config configs/rows.yaml     seeds 0 to 4; `--seeds 1 7 9` are these three
    python -m src repeat --folds 5 --config configs/rows.yaml     each row is predicted by a net that has not seen it
    python -m src repeat --resume runs/rows/repeat_0              after a kill; failed fits are tried again

Seeds are compared by the test (without one by the validation), folds by the validation of the best checkpoint. Each
fold also chose its checkpoint, so its score is optimistic. Seeds get a 95 percent interval; folds get none, because
they share training rows. Beside the runs, in `runs/<experiment>/repeat_<n>`, lie results.csv and summary.yaml, for
folds out_of_fold.csv. Every other option is one of `fit`.
"""

import argparse
from pathlib import Path

from filelock import Timeout

from src.tools.common import Parser, refuse
from src.tools.repeat.plan import begin, read_plan, read_seeds


def main(args: list[str]) -> None:
    """Run the fits that are not finished, and report the results."""
    form = argparse.RawDescriptionHelpFormatter
    parser = Parser("python -m src repeat", description=__doc__, formatter_class=form, allow_abbrev=False)
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--seeds", nargs="+", help="how many, from 0 on; or a list of them")
    what.add_argument("--folds", type=int, metavar="N", help="how many; the data module needs an option `fold`")
    what.add_argument("--resume", type=Path, metavar="FOLDER", help="resume a repeat, which has all options")
    parser.add_argument("-c", "--config", action="append", default=[], metavar="FILE", help="YAML of an experiment")
    parser.add_argument("--only", type=int, help=argparse.SUPPRESS)  # one fit alone, in a process of its own
    given, options = parser.parse_known_args(args)
    options = [*(f"--config={file}" for file in given.config), *options]
    if given.resume and options:
        refuse(f"--resume takes no other option, the repeat has them: leave out {' '.join(options)}.")
    if not given.resume and not given.config:
        refuse("name the YAML of an experiment first, --config configs/<name>.yaml.")
    if given.folds is not None and given.folds < 2:
        refuse(f"--folds {given.folds} must be at least 2.")
    if given.resume:
        folder, plan = given.resume, read_plan(given.resume)
    elif given.seeds:
        folder, plan = begin("seed", read_seeds(given.seeds), options, Path(given.config[0]).stem)
    else:
        folder, plan = begin("fold", list(range(given.folds)), options, Path(given.config[0]).stem)
    from src.tools.repeat.fits import run_all, run_one  # seconds, which a wrong option need not wait

    try:
        run_all(folder, plan) if given.only is None else run_one(folder, plan, given.only)
    except Timeout:
        refuse(f"another process works on {folder}: wait for it, or end it.")
