"""Write the results of a sweep: `trials.csv`, `best.yaml`, the test of the best trial and plots."""

import json
import shlex
import warnings
from typing import Any

import optuna
from filelock import FileLock
from optuna.storages import RetryHeartbeatStaleTrialCallback
from optuna.trial import FrozenTrial, TrialState

from src.tools.common import refuse, write, write_table
from src.tools.common.fits import MAX_FAILURES, evaluate, summary_of
from src.tools.sweep.plan import Sweep

TRIALS, BEST = "trials.csv", "best.yaml"
PLOTS = ("optimization_history", "param_importances", "slice", "parallel_coordinate")


def trials_of(study: optuna.Study) -> list[FrozenTrial]:
    """Return the trials that have begun; of one that was retried on another machine only the last attempt."""
    every = study.get_trials(deepcopy=False)
    retried = {number for trial in every for number in RetryHeartbeatStaleTrialCallback.retry_history(trial)}
    return [trial for trial in every if trial.number not in retried and trial.state != TrialState.WAITING]


def state_of(trial: FrozenTrial) -> str:
    """Return complete, pruned, failed or running."""
    return "failed" if trial.state == TrialState.FAIL else trial.state.name.lower()


def cells_of(sweep: Sweep, trial: FrozenTrial, digits: str = "") -> dict[str, str]:
    """Return a trial's value of each option as YAML has it; digits formats fractions."""

    def cell(value: Any) -> str:
        return value if isinstance(value, str) else f"{value:{digits}}" if type(value) is float else json.dumps(value)

    return {name: cell(value) for name, value in sweep.values(trial.params).items()}


def write_trials(sweep: Sweep, study: optuna.Study) -> None:
    """Write a row for each trial."""
    rows, unknown = [], dict.fromkeys([each.name for each in sweep.space], "")
    for trial in trials_of(study):
        ended = {"number": trial.number, "state": state_of(trial), "value": trial.value}
        about = {key: trial.user_attrs.get(key, "") for key in ("folder", "seconds", "error")}
        about["folder"] = sweep.folder / about["folder"]
        rows.append(ended | unknown | cells_of(sweep, trial) | about)
    write_table(sweep.folder / TRIALS, rows)


def describe(sweep: Sweep, trial: FrozenTrial) -> str:
    """Return a line for a trial that has ended."""
    about, is_complete = trial.user_attrs, trial.state == TrialState.COMPLETE
    words = [f"trial {trial.number:<3}"]
    words += [f"{sweep.plan['metric']} {trial.value:.4f}" if is_complete else state_of(trial)]
    words += [f"{about['seconds']:.1f} s", *map(" ".join, cells_of(sweep, trial, ".4g").items())]
    if about["folder"] != f"version_{trial.number}":
        words += [f"{about['folder']} has this point already"]
    return "  ".join([*words, about["error"]]).rstrip()


def close(sweep: Sweep, study: optuna.Study, again: str) -> None:
    """Test the best trial once; write and print what the sweep found; `again` is the command that continues it."""
    trials = trials_of(study)
    if left := sweep.trials - sum(trial.state.is_finished() for trial in trials):
        last = [trial for trial in trials if trial.state == TrialState.FAIL][-1]
        reason = f"{sweep.run(last)}: {last.user_attrs['error'].rstrip('.')}"
        refuse(f"{MAX_FAILURES} trials in a row failed, {left} are left. The last: {reason}. Continue with: {again}")
    states = [state_of(trial) for trial in trials]
    if "complete" not in states:
        refuse(f"no trial is complete; see {sweep.folder / TRIALS}")
    best = study.best_trial
    with FileLock(sweep.folder / ".locks" / "close"):  # one of several machines tests
        folder = sweep.folder / f"test_{best.number}"
        error = evaluate(["test"], sweep.run(best), folder, output=folder / "output.txt")
        tested = {} if error else summary_of(folder)["metrics"]
        found = {sweep.plan["metric"]: best.value} | {k: v for k, v in tested.items() if k.startswith("test")}
        text = f"trial {best.number}, {', '.join(f'{name} {float(value):.4f}' for name, value in found.items())}"
        write(sweep.folder / BEST, f"# {text}\n{(sweep.run(best) / 'config.yaml').read_text(encoding='utf-8')}")
        notes = [f"the best trial was not tested: {error}"] if error else []
        notes += _plot(sweep, study)
    counts = ", ".join(f"{states.count(state)} {state}" for state in sorted(set(states)))
    print(f"sweep {len(trials)} trials: {counts}", f"best  {text}", sep="\n")
    print(f"files {TRIALS}, {BEST} and plots in {sweep.folder}", *(f"note: {note}" for note in notes), sep="\n")
    print(f"next  python -m src fit --config {shlex.quote(str(sweep.folder / BEST))}", flush=True)


def _plot(sweep: Sweep, study: optuna.Study) -> list[str]:
    """Save Optuna's plots; return a line for each that could not be drawn."""
    import matplotlib as mpl

    mpl.use("agg")
    from matplotlib import pyplot
    from optuna.visualization import matplotlib as plots

    notes = []
    for name in PLOTS:
        try:
            with warnings.catch_warnings(action="ignore"), mpl.rc_context():  # Optuna sets a style for all later plots
                getattr(plots, f"plot_{name}")(study, target_name=sweep.plan["metric"])
                figure = pyplot.gcf()
                figure.set_size_inches(max(8, 4 * len(sweep.space)), 5)
                figure.savefig(sweep.folder / f"{name}.png", dpi=120, bbox_inches="tight")
        except (ValueError, RuntimeError, ImportError) as error:
            notes.append(f"{name}.png is left out: {' '.join(str(error).split())}")
    return notes
