"""Fits one config with several seeds or on several folds, and reports mean and spread.

    python -m src repeat --seeds 5 --config configs/rows.yaml     seeds 0 to 4; `--seeds 1 7 9` are these three
    python -m src repeat --folds 5 --config configs/rows.yaml     each row is predicted by a net that has not seen it
    python -m src repeat --resume runs/rows/repeat_0              after a kill; failed fits are tried again

Seeds are compared by the test if `test_after_fit` is true, else, and folds always, by the validation of the best
checkpoint. A validation also chose that checkpoint, so its score is optimistic. Seeds get a 95 percent interval; folds
get none, because they share training rows. Beside the runs, in `runs/<experiment>/repeat_<n>`, lie results.csv and
summary.yaml, for folds out_of_fold.csv. Every other option is one of `fit`; each fit runs on one device.
"""

from pathlib import Path

from src.tools.common import Parser, refuse
from src.tools.repeat.plan import begin, read_plan, read_seeds


def main(args: list[str]) -> None:
    """Run the fits that are not finished, and report the results."""
    parser = Parser("python -m src repeat", description=__doc__)
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--seeds", type=int, nargs="+", metavar="N", help="how many, from 0 on; or a list of them")
    what.add_argument("--folds", type=int, metavar="N", help="how many; the data module needs an option `fold`")
    what.add_argument("--resume", type=Path, metavar="FOLDER", help="resume a repeat, which has all options")
    parser.add_argument("-c", "--config", action="append", default=[], metavar="FILE", help="YAML of an experiment")
    given, options = parser.parse_known_args(args)
    if given.resume:
        if options or given.config:
            refuse(f"--resume takes no other option, the repeat has them: leave out {' '.join(given.config + options)}")
        plan = read_plan(given.resume)
    elif given.seeds:
        plan = begin("seed", read_seeds(given.seeds), given.config, options)
    elif given.folds < 2:
        refuse(f"--folds {given.folds}: give at least 2.")
    else:
        plan = begin("fold", list(range(given.folds)), given.config, options)
    from src.tools.repeat.fits import run_all  # seconds, which a wrong option need not wait

    run_all(plan)
