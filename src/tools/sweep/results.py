"""Write the results of a sweep: `trials.csv`, `best.yaml`, the test of the best trial, plots and a printed table."""

import re
import shlex
import warnings
from pathlib import Path
from typing import Any

import optuna
from filelock import FileLock
from optuna.storages import RetryHeartbeatStaleTrialCallback
from optuna.trial import FrozenTrial, TrialState

from src.tools.common import lines_of, refuse, write, write_table
from src.tools.common.fits import BASE, as_yaml, run_verb, summary_of
from src.tools.sweep.plan import Sweep

TRIALS, BEST = "trials.csv", "best.yaml"
NUM_SHOWN = 5
PLOTS = {
    "history": "optimization_history",
    "importance": "param_importances",
    "slices": "slice",
    "parallel": "parallel_coordinate",
}


def trials_of(study: optuna.Study) -> list[FrozenTrial]:
    """Return the trials that have begun; of one that was retried on another machine only the last attempt."""
    every = study.get_trials(deepcopy=False)
    retried = {number for trial in every for number in RetryHeartbeatStaleTrialCallback.retry_history(trial)}
    return [trial for trial in every if trial.number not in retried and trial.state != TrialState.WAITING]


def state_of(trial: FrozenTrial) -> str:
    """Return complete, pruned, failed, running or waiting."""
    return "failed" if trial.state == TrialState.FAIL else trial.state.name.lower()


def point_of(trial: FrozenTrial) -> dict[str, Any]:
    """Return a trial's value of each option by its name, the label of a choice."""
    return {key.partition(" (")[0]: value for key, value in trial.params.items()}


def cells_of(trial: FrozenTrial, digits: str = "") -> dict[str, str]:
    """Return a trial's value of each option as YAML has it; digits formats fractions."""
    words = {None: "null", True: "true", False: "false"}
    point = point_of(trial)
    cells = {name: f"{value:{digits}}" if isinstance(value, float) else str(value) for name, value in point.items()}
    return cells | {name: words[value] for name, value in point.items() if value is None or isinstance(value, bool)}


def write_trials(sweep: Sweep, study: optuna.Study) -> None:
    """Write a row for each trial."""
    rows = []
    for trial in trials_of(study):
        about = {key: trial.user_attrs.get(key, "") for key in ("folder", "seconds", "error")}
        ended = {"number": trial.number, "state": state_of(trial), "value": trial.value}
        rows.append(ended | dict.fromkeys(sweep.names, "") | cells_of(trial) | about)
    write_table(sweep.folder / TRIALS, rows)


def best_of(sweep: Sweep, study: optuna.Study) -> list[FrozenTrial]:
    """Return the complete trials, the best one first; of those with one point the first."""
    done = [each for each in trials_of(study)[::-1] if each.state == TrialState.COMPLETE]
    by_folder = {trial.user_attrs["folder"]: trial for trial in done}.values()
    return sorted(by_folder, key=lambda trial: trial.value or 0.0, reverse=sweep.plan["direction"] == "maximize")


def describe(sweep: Sweep, study: optuna.Study, trial: FrozenTrial) -> str:
    """Return a line for a trial that has ended."""
    words = [f"trial {trial.number:<3}", "" if trial.state == TrialState.COMPLETE else state_of(trial)]
    words += ["" if trial.value is None else f"{sweep.plan['metric']} {trial.value:.4f}"]
    words += [f"{trial.user_attrs['seconds']:.1f} s"]
    words += [f"{name} {cell}" for name, cell in cells_of(trial, ".4g").items()]
    if trial.number in [each.number for each in best_of(sweep, study)[:1]]:
        words += ["best so far"]
    if not trial.user_attrs["folder"].endswith(f"_{trial.number}"):
        words += [f"{Path(trial.user_attrs['folder']).name} has this point already"]
    return "  ".join(filter(None, [*words, trial.user_attrs["error"]]))


def close(sweep: Sweep, study: optuna.Study, again: str) -> None:
    """Test the best trial once; write and print what the sweep found; `again` is the command that continues it."""
    trials, best = trials_of(study), best_of(sweep, study)
    if left := sweep.trials - sum(trial.state.is_finished() for trial in trials):
        last = [trial.user_attrs for trial in trials if trial.state == TrialState.FAIL][-1]
        refuse(f"too many trials in a row failed, {left} are left; the last one, {last['folder']}: "
               f"{last['error'].rstrip('.')}. Continue with: {again}")  # fmt: skip
    if not best:
        refuse(f"no trial is complete; see {sweep.folder / TRIALS}")
    with FileLock(sweep.folder / ".locks" / "close"):  # one of several machines tests
        tested, notes = _test(sweep, best[0])
        found = "".join(f", {name} {value:.4f}" for name, value in tested.items())
        head = f"# Trial {best[0].number} of {sweep.folder}: {sweep.plan['metric']} {best[0].value:.4f}{found}.\n"
        write(sweep.folder / BEST, head + as_yaml(sweep.point(point_of(best[0]))))
        notes += _plot(sweep, study)
        sweep.finished = True
        sweep.save()
    shown = [dict.fromkeys(sweep.names, "") | cells_of(each, ".4g") for each in best[:NUM_SHOWN]]
    rows = [[str(each.number), f"{each.value:.4f}", *cells.values()] for each, cells in zip(best, shown, strict=False)]
    print("", *lines_of([["trial", sweep.plan["metric"], *sweep.names], *rows]), "", sep="\n")
    states = [state_of(trial) for trial in trials]
    counts = [f"{states.count(state)} {state}" for state in sorted(set(states))]
    seconds = sum({trial.user_attrs["folder"]: trial.user_attrs["seconds"] for trial in trials}.values())
    print(f"sweep {len(trials)} trials: {', '.join(counts)}; {seconds:.1f} s in all")
    print(f"best  trial {best[0].number}, {sweep.plan['metric']} {best[0].value:.4f}{found}")
    print(f"files {TRIALS}, {BEST} and plots in {sweep.folder}", *(f"note: {note}" for note in notes), sep="\n")
    configs = [word for name in (BASE, BEST) for word in ("--config", str(sweep.folder / name))]
    print(f"next  python -m src fit {shlex.join(configs)}", flush=True)


def _test(sweep: Sweep, best: FrozenTrial) -> tuple[dict[str, float], list[str]]:
    """Return the best trial's metrics on the test data, and why there are none."""
    folder = sweep.folder / f"test_{best.number}"
    if summary_of(folder).get("state") != "finished":
        folder.mkdir(exist_ok=True)
        checkpoint = f"{best.user_attrs['folder']}/checkpoints/best.ckpt"
        words = ["test", "--ckpt_path", checkpoint, "--trainer.devices=1"]
        error = run_verb(words, (), folder, folder / "output.txt")
        if error:
            return {}, [f"trial {best.number} was not tested: {error}"]
    metrics = summary_of(folder)["metrics"]
    return {name: float(value) for name, value in metrics.items() if re.match("test[/_]", name)}, []


def _plot(sweep: Sweep, study: optuna.Study) -> list[str]:
    """Save Optuna's plots; return a line for each that could not be drawn."""
    import matplotlib as mpl

    mpl.use("agg")
    from matplotlib import pyplot
    from optuna.visualization import matplotlib as plots

    notes = []
    for name, kind in PLOTS.items():
        try:
            with warnings.catch_warnings(), mpl.rc_context():  # Optuna sets a style for all later plots
                warnings.simplefilter("ignore")
                getattr(plots, f"plot_{kind}")(study, target_name=sweep.plan["metric"])
                if name in ("slices", "parallel"):  # an axis for each option
                    pyplot.gcf().set_size_inches(max(8, 4 * len(study.best_params)), 5)
                pyplot.gcf().savefig(sweep.folder / f"{name}.png", dpi=120, bbox_inches="tight")
        except (ValueError, RuntimeError, ImportError) as error:
            notes.append(f"{name}.png is left out: {' '.join(str(error).split())}")
        finally:
            pyplot.close("all")
    return notes
