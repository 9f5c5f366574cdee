"""The end of a sweep: the best trial is tested once, and everything is written and told."""

import csv
import re
import shlex
import sys
import traceback

import optuna
from filelock import FileLock
from optuna.trial import FrozenTrial

from src.cli import main
from src.tools.sweep.folder import Sweep
from src.tools.sweep.lease import LEASES
from src.tools.sweep.results import BEST, SAME_AS, TRIALS, best_of, draw, state, table, write_best, write_trials
from src.tools.sweep.study import open_storage, open_study
from src.tools.sweep.trial import OUTPUT, written_to
from src.tools.sweep.worker import ERROR, SECONDS, failed_in_a_row


def close(sweep: Sweep, crew: str, max_failures: int, again: str) -> int:
    """Write and tell what the sweep found.

    Args:
        sweep: Without trials left to run.
        crew: The command that ends.
        max_failures: So many in a row end it.
        again: The command that goes on.

    Returns:
        The exit code.
    """
    study = open_study(sweep, open_storage(sweep))
    trials = study.get_trials(deepcopy=False)[: sweep.trials]
    write_trials(sweep, study)
    if failed := failed_in_a_row(trials, crew, max_failures):
        last = failed[-1]
        sys.stderr.write(
            f"error: {len(failed)} trials in a row failed; the last one, {sweep.run_folder(last.number)}: "
            f"{str(last.user_attrs.get(ERROR)).rstrip('.')}. Go on with: {again}\n"
        )
        return 1
    if left := sweep.trials - sum(trial.state.is_finished() for trial in trials):
        sys.stderr.write(f"error: {left} trials are not done. Go on with: {again}\n")
        return 1
    best = best_of(study)
    if best is None:
        sys.stderr.write(f"error: no trial came to its end; see {sweep.folder / TRIALS}\n")
        return 1
    with FileLock(sweep.folder / LEASES / "close.lock"):  # of several machines one tests
        test = _test(sweep, best)
        write_best(sweep, study, test)
        notes = draw(sweep, study)
    _tell(sweep, study, trials, best, test)
    for note in notes:
        sys.stderr.write(f"note: {note}\n")
    return 0


def _tell(
    sweep: Sweep, study: optuna.Study, trials: list[FrozenTrial], best: FrozenTrial, test: dict[str, float]
) -> None:
    ended = [state(trial) for trial in trials]
    counts = ", ".join(f"{ended.count(word)} {word}" for word in dict.fromkeys(sorted(ended)))
    if same := sum(trial.user_attrs.get(SAME_AS) is not None for trial in trials):
        counts += f", {same} of them a point of another trial, not fitted again"
    seconds = sum(trial.user_attrs.get(SECONDS, 0.0) for trial in trials)
    print("", *table(sweep, study), "", sep="\n")
    print(f"sweep {len(trials)} trials: {counts}; {seconds:.1f} s in all")
    print(f"best  trial {best.number}, {sweep.plan.metric} {best.value:.4f}")
    if test:
        print("test  " + "  ".join(f"{name} {value:.4f}" for name, value in test.items()))
    print(f"files {TRIALS}, {BEST} and pictures in {sweep.folder}")
    words = [*sweep.plan.options, "--config", str(sweep.folder / BEST)]
    print(f"next  python -m src fit {shlex.join(words)}", flush=True)


def _test(sweep: Sweep, best: FrozenTrial) -> dict[str, float]:
    """The best trial's metrics on the test data, computed once."""
    folder = sweep.folder / f"test_{best.number}"
    if not (folder / "metrics.csv").is_file():
        checkpoint = sweep.run_folder(best.number) / "checkpoints" / "best.ckpt"
        folder.mkdir(exist_ok=True)
        try:
            with written_to(folder / OUTPUT):
                main(["test", "--ckpt_path", checkpoint, "--trainer.devices=1"], folder=folder)
        except SystemExit as stop:
            if isinstance(stop.code, int) and stop.code >= 128:
                raise
            sys.stderr.write(f"note: trial {best.number} was not tested: {stop.code}\n")
            return {}
        except Exception as error:  # a user's test step; the search is done all the same
            sys.stderr.write(
                f"note: trial {best.number} was not tested: {''.join(traceback.format_exception_only(error))}"
            )
            return {}
    if not (folder / "metrics.csv").is_file():
        return {}  # it logged nothing
    with (folder / "metrics.csv").open(newline="", encoding="utf-8") as file:
        row = list(csv.DictReader(file))[-1]
    return {name: float(value) for name, value in row.items() if re.match("test[/_]", name) and value}
