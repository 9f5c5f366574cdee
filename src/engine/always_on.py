"""List the callbacks that are on in every run, in their order, each with the name of its options.

Turn off `checkpoint` by `--trainer.enable_checkpointing false`, and `finite`, which stops at a NaN loss, by
`--finite.enabled false`. `track` is off until a tracker is named. `report`, `resume`, `signals` and `predictions`
have no switch; `--trainer.enable_progress_bar false` turns off the bar and the line of each epoch.
"""

import sys
from collections.abc import Iterable
from typing import Any

from lightning.pytorch import Callback
from lightning.pytorch.callbacks import BasePredictionWriter, LearningRateFinder, ProgressBar

from src.engine.checkpoint.callback import RunCheckpoint
from src.engine.checkpoint.resume import Resume
from src.engine.loggers.predictions import PredictionsCsv
from src.engine.loggers.trackers import Trackers
from src.engine.run.report import Bar, Report
from src.engine.run.run import Run, RunCallback
from src.engine.run.stop import Finite, Signals

# Those of a YAML come behind the first two, and Lightning moves the checkpoint to the end.
ALWAYS_ON: tuple[tuple[str, type[RunCallback]], ...] = (
    ("report", Report),
    ("track", Trackers),
    ("resume", Resume),
    ("finite", Finite),
    ("signals", Signals),
    ("predictions", PredictionsCsv),
    ("checkpoint", RunCheckpoint),
)


def callbacks(trainer: Any, always_on: dict[str, Any], run: Run, callers: Iterable[Callback] = ()) -> list[Callback]:
    """Return all callbacks of a run: one progress bar at most, and none that an option turns off.

    Args:
        trainer: The trainer's part of the config; the bar is turned off there where there is no terminal.
        always_on: One of each of `ALWAYS_ON`, by its name.
        run: What they are to know.
        callers: Further ones, of a program that called the command line.
    """
    given = trainer.callbacks or []
    given = given if isinstance(given, list) else [given]
    if run.verb == "fit" and run.source:  # the rate that was found is in the checkpoint
        given = [callback for callback in given if not isinstance(callback, LearningRateFinder)]
    if trainer.barebones or trainer.enable_checkpointing is False:
        always_on.pop("checkpoint")
    if any(isinstance(callback, BasePredictionWriter) for callback in given):
        always_on.pop("predictions")
    report = always_on["report"]
    own_bar = any(isinstance(callback, ProgressBar) for callback in given)
    report.prints_epochs = not (own_bar or trainer.barebones or trainer.enable_progress_bar is False)
    bar = [Bar()] if report.prints_epochs and sys.stdout.isatty() else []
    if not (bar or own_bar):
        trainer.enable_progress_bar = False  # or Lightning makes one
    first, second, *rest = always_on.values()
    every = [first, second, *bar, *given, *rest, *callers]
    for callback in every:
        if isinstance(callback, RunCallback):
            callback.run = run
    return [callback for callback in every if not isinstance(callback, RunCallback) or callback.needed()]
