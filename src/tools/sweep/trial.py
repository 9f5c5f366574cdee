"""A trial: an ordinary fit in a folder of its own, by the command line that users have."""

import contextlib
import gc
import os
import shutil
import sys
import traceback
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from optuna.trial import Trial, TrialState

from src.cli import main
from src.tools.sweep.fragment import as_options
from src.tools.sweep.kept import kept, with_others
from src.tools.sweep.plan import Plan

OUTPUT = "output.txt"
PRUNED = "pruned"  # the attribute of a trial that was found hopeless
STEPS = "steps"  # the attribute with the training step of each validation


@dataclass
class Outcome:
    """How a trial ended.

    Attributes:
        state: COMPLETE, PRUNED or FAIL.
        value: The best validation's, of a complete one.
        error: Of a failed one, in a line.
    """

    state: TrialState
    value: float | None = None
    error: str = ""


class Pruning(Callback):
    """Tells the study each validation, and ends the fit in good order where the pruner finds it hopeless.

    Args:
        trial: Optuna's.
        metric: What is told.
    """

    def __init__(self, trial: Trial, metric: str) -> None:
        self.trial = trial
        self.metric = metric
        self._steps: list[int] = list(trial.user_attrs.get(STEPS, []))

    def on_validation_end(self, trainer: Trainer, module: LightningModule) -> None:
        """The n-th validation is the n-th step of the study; one that a resumed fit repeats was told before."""
        if trainer.sanity_checking or trainer.state.fn != "fit" or self.metric not in trainer.callback_metrics:
            return
        if trainer.global_step not in self._steps:
            self._steps.append(trainer.global_step)
            self.trial.report(float(trainer.callback_metrics[self.metric]), len(self._steps))
            self.trial.set_user_attr(STEPS, self._steps)
        # The last one is decided anew: a kill may have come between.
        if trainer.global_step == self._steps[-1] and self.trial.should_prune():
            self.trial.set_user_attr(PRUNED, True)
        if self.trial.user_attrs.get(PRUNED):
            trainer.should_stop = True


def options_of(plan: Plan, values: dict[str, Any], folder: Path) -> list[str]:
    """The options of `fit` that make a trial.

    Args:
        plan: Says what all trials are given.
        values: Of each option the trial's own value.
        folder: The sweep's, which has copies of the files.
    """
    copies = kept(folder)
    words = [*plan.options, *plan.forced, *as_options(values)]
    return with_others(words, lambda name: copies.get(name, name))


def run_trial(plan: Plan, trial: Trial, values: dict[str, Any], folder: Path) -> Outcome:
    """Fit, or go on with a fit that was cut short.

    Args:
        plan: Says what all trials are given.
        trial: Optuna's.
        values: Of each option the trial's own value.
        folder: Where the run lies.

    Raises:
        SystemExit: If a signal ended it; it can go on later.
    """
    if trial.user_attrs.get(PRUNED):
        return Outcome(TrialState.PRUNED)
    last = folder / "checkpoints" / "last.ckpt"
    if last.exists():
        words = ["fit", "--ckpt_path", str(last)]
    else:
        shutil.rmtree(folder, ignore_errors=True)
        words = ["fit", *options_of(plan, values, folder.parent)]
    folder.mkdir(parents=True, exist_ok=True)
    callbacks = [Pruning(trial, plan.metric)] if plan.pruner else []
    with written_to(folder / OUTPUT):
        try:
            best = main(words, callbacks, folder).run.best_score
        except SystemExit as stop:
            if isinstance(stop.code, int) and stop.code >= 128:
                raise
            return Outcome(TrialState.FAIL, error=_told(stop, folder / OUTPUT))
        except Exception as error:  # whatever a user's model raises; the next trial may be better
            traceback.print_exc()
            return Outcome(TrialState.FAIL, error=" ".join(f"{type(error).__name__}: {error}".split()))
        finally:
            _let_go()
    if trial.user_attrs.get(PRUNED):
        return Outcome(TrialState.PRUNED)
    if best is None:
        return Outcome(TrialState.FAIL, error=f"no validation gave a number for {plan.metric}")
    return Outcome(TrialState.COMPLETE, best)


def _told(stop: SystemExit, output: Path) -> str:
    """What the command line said of a mistake."""
    if isinstance(stop.code, str):
        print(stop.code, file=sys.stderr)
        return stop.code.splitlines()[0].removeprefix("error: ")
    lines = [line for line in output.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
    return lines[-1].removeprefix("error: ") if lines else f"exit code {stop.code}"


def _let_go() -> None:
    """Give back what the trial held before the next one asks for memory."""
    gc.collect()
    torch.compiler.reset()  # torch compiles a net for 8 shapes in one process, and leaves later ones as they are
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


@contextlib.contextmanager
def written_to(path: Path) -> Iterator[None]:
    """Send all that is printed to a file, whoever prints it: Python, a library in C, a handler of signals."""
    sys.stdout.flush()
    sys.stderr.flush()
    kept = [os.dup(number) for number in (1, 2)]
    with path.open("a", encoding="utf-8", errors="backslashreplace", buffering=1) as file:
        for number in (1, 2):
            os.dup2(file.fileno(), number)
        try:
            with contextlib.redirect_stdout(file), contextlib.redirect_stderr(file):
                yield
        finally:
            for number, old in zip((1, 2), kept, strict=True):
                os.dup2(old, number)
                os.close(old)
