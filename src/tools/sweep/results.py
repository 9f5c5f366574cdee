"""What a sweep leaves: `trials.csv`, `best.yaml`, four pictures, and the words on the screen."""

import csv
import io
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import FixedTrial, FrozenTrial, TrialState

from src.tools.sweep.folder import Sweep, replace
from src.tools.sweep.fragment import as_file
from src.tools.sweep.kept import kept
from src.tools.sweep.plan import Plan
from src.tools.sweep.space import all_names, label

TRIALS, BEST = "trials.csv", "best.yaml"
SAME_AS = "same_as"  # the attribute with the number of the trial that has the same point, and was fitted
STATES = {TrialState.FAIL: "failed"}


def values_of(plan: Plan, trial: FrozenTrial) -> dict[str, Any]:
    """Of each option what a trial has drawn; nothing before it has drawn all."""
    drawn: dict[str, Any] = {}
    try:
        for each in plan.read:
            drawn |= each.suggest(FixedTrial(trial.params), lambda key: None)
    except ValueError:
        return {}
    return drawn


def write_trials(sweep: Sweep, study: optuna.Study) -> None:
    """A row for each trial, in `trials.csv`."""
    names = [name for each in sweep.plan.read for name in all_names(each)]
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(["number", "state", "value", *names, "folder", "seconds", "error"])
    for trial in study.get_trials(deepcopy=False)[: sweep.trials]:
        drawn, about = values_of(sweep.plan, trial), trial.user_attrs
        own = [in_cell(drawn[name]) if name in drawn else "" for name in names]
        rest = [about.get(key, "") for key in ("folder", "seconds", "error")]
        writer.writerow([trial.number, state(trial), trial.value, *own, *rest])
    replace(sweep.folder / TRIALS, file.getvalue())


def in_cell(value: Any) -> Any:
    """As YAML would have it; a number with all its digits."""
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else label(value)


def state(trial: FrozenTrial) -> str:
    """In a word: complete, pruned, failed, running, waiting."""
    return STATES.get(trial.state, trial.state.name.lower())


def best_of(study: optuna.Study) -> FrozenTrial | None:
    """The best complete trial, if there is one; of several with one point that which was fitted."""
    try:
        best = study.best_trial
    except ValueError:
        return None
    same = best.user_attrs.get(SAME_AS)
    return best if same is None else study.get_trials(deepcopy=False)[same]


def in_words(values: dict[str, Any]) -> str:
    """In words: "model.optimizer.lr 0.0132  data.batch_size 256"."""
    return "  ".join(f"{name} {f'{v:.4g}' if isinstance(v, float) else in_cell(v)}" for name, v in values.items())


def describe(sweep: Sweep, study: optuna.Study, number: int) -> str:
    """A trial that has ended, in a line."""
    trial, best = study.get_trials(deepcopy=False)[number], best_of(study)
    how = "" if trial.value is None else f"  {sweep.plan.metric} {trial.value:.4f}"
    how = how if trial.state == TrialState.COMPLETE else f"  {state(trial)}{how}"
    seconds = trial.user_attrs.get("seconds", 0.0)
    said = f"trial {number:<4}{how}  {seconds:.1f} s  {in_words(values_of(sweep.plan, trial))}"
    if (same := trial.user_attrs.get(SAME_AS)) is not None:
        return f"{said}  the same point as trial {same}, not fitted again"
    if trial.state == TrialState.FAIL:
        return f"{said}  {trial.user_attrs.get('error', '')}"
    return f"{said}  best so far" if best and best.number == number else said


def write_best(sweep: Sweep, study: optuna.Study, test: dict[str, float]) -> None:
    """The best trial's options as a fragment, in `best.yaml`.

    Args:
        sweep: The sweep.
        study: Its study.
        test: What the test of the best one gave.
    """
    if (best := best_of(study)) is None:
        return
    tested = "".join(f", {name} {value:.4f}" for name, value in test.items())
    head = f"# Trial {best.number} of {sweep.folder}: {sweep.plan.metric} {best.value:.4f}{tested}.\n"
    told = as_file(values_of(sweep.plan, best), sweep.folder, kept(sweep.folder))
    replace(sweep.folder / BEST, head + told)


def table(sweep: Sweep, study: optuna.Study, most: int = 5) -> list[str]:
    """The best trials, a line each, the best one first."""
    every = [trial for trial in study.get_trials(deepcopy=False) if trial.user_attrs.get(SAME_AS) is None]
    done = [trial for trial in every if trial.state == TrialState.COMPLETE]
    best = sorted(done, key=lambda trial: trial.value or 0.0, reverse=sweep.plan.direction == "maximize")[:most]
    names = [name for each in sweep.plan.read for name in all_names(each)]
    rows = [["trial", sweep.plan.metric, *names]]
    for trial in best:
        drawn = values_of(sweep.plan, trial)
        own = [in_words({"": drawn[name]}).strip() if name in drawn else "" for name in names]
        rows.append([str(trial.number), f"{trial.value:.4f}", *own])
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]


def draw(sweep: Sweep, study: optuna.Study) -> list[str]:
    """Optuna's pictures, into the sweep's folder.

    Returns:
        What could not be drawn, a line each.
    """
    import matplotlib as mpl

    mpl.use("agg")
    from matplotlib import pyplot
    from optuna.visualization import matplotlib as pictures

    notes = []
    plots: tuple[tuple[str, Callable[..., Any]], ...] = (
        ("history", pictures.plot_optimization_history),
        ("importance", pictures.plot_param_importances),
        ("slices", pictures.plot_slice),
        ("parallel", pictures.plot_parallel_coordinate),
    )
    for name, plot in plots:
        file: Path = sweep.folder / f"{name}.png"
        try:
            with warnings.catch_warnings(), mpl.rc_context():  # Optuna sets a style for all that is drawn later
                warnings.simplefilter("ignore")
                plot(study, target_name=sweep.plan.metric)
                if name in ("slices", "parallel"):  # an axis for each
                    pyplot.gcf().set_size_inches(max(8, 4 * len(study.best_params)), 5)
                pyplot.gcf().savefig(file, dpi=120, bbox_inches="tight")
        except (ValueError, RuntimeError, ImportError) as error:
            notes.append(f"{file.name} is left out: {' '.join(str(error).split())}")
        finally:
            pyplot.close("all")
    return notes
