"""Fits one config with several seeds or in several folds, and tells mean and spread: `repeat --seeds 5 --config ...`.

    python -m src repeat --seeds 5 --config configs/mnist.yaml     seeds 0 to 4; `--seeds 1 7 9` are these three
    python -m src repeat --folds 5 --config configs/mnist.yaml     5 folds; predictions of each sample by the net
                                                                   that has not seen it
    python -m src repeat --resume runs/mnist/repeat_0              go on after a kill; failed fits are tried again

Seeds are compared by the test (by the validation where there is none), folds by the validation of the best checkpoint.
That fold also chose the checkpoint, so its score is optimistic. Seeds get a 95 percent interval, folds none: they share
training rows, and an interval would be too narrow.
Beside the runs, `runs/<experiment>/repeat_<n>/version_<k>`, lie results.csv and summary.yaml, of folds out_of_fold.csv.
Every other option is one of `fit`.
"""

import argparse
import sys
from pathlib import Path

from src.tools.common import Parser
from src.tools.repeat.plan import begin, read_folds, read_plan, read_seeds


def main(args: list[str]) -> None:
    """Do the fits that are not done yet, and tell what came out."""
    form = argparse.RawDescriptionHelpFormatter
    parser = Parser("python -m src repeat", None, __doc__, formatter_class=form, allow_abbrev=False)
    parser.add_argument("--seeds", nargs="+", help="how many, from 0 on; or a list of them")
    parser.add_argument(
        "--folds", type=int, metavar="N", help="how many; the data module needs an option `fold`, see src/data/rows.py"
    )
    parser.add_argument("--resume", type=Path, metavar="FOLDER", help="go on with a repeat, which has all options")
    parser.add_argument("--only", type=int, help=argparse.SUPPRESS)  # one fit alone, in a process of its own
    given, options = parser.parse_known_args(args)
    asked = [name for name in ("seeds", "folds", "resume") if getattr(given, name) is not None]
    if len(asked) != 1:
        got = " and ".join(f"--{name}" for name in asked) or "neither"
        sys.exit(f"error: repeat takes one of --seeds, --folds and --resume; got {got}.")
    if given.resume and options:
        sys.exit(f"error: --resume takes no other option, the repeat has them: leave out {' '.join(options)}.")
    if given.resume:
        folder, plan = given.resume, read_plan(given.resume)
    else:
        values = read_folds(given.folds) if given.seeds is None else read_seeds(given.seeds)
        folder, plan = begin("fold" if given.seeds is None else "seed", values, options)
    from src.tools.repeat.fits import fit, run_all  # seconds, which a wrong option need not wait

    if given.only is None:
        run_all(folder, plan)
    else:
        fit(folder, plan, given.only)
