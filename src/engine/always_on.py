"""List the callbacks that are on in every run, in their order, each with the name of its options.

Turn off `progress` by `--trainer.enable_progress_bar false` and `checkpoint` by `--trainer.enable_checkpointing false`.
Turn off `finite`, which stops at a NaN loss, by `--finite.enabled false`. `track` is off until a tracker is named.
`summary`, `resume`, `signals`, `metrics` and `predictions` have no switch. `--quiet.enabled false` turns off `quiet`
and shows all warnings of the libraries.
"""

import sys
from collections.abc import Iterable
from typing import Any

from lightning.pytorch import Callback
from lightning.pytorch.callbacks import (
    DeviceStatsMonitor,
    LearningRateFinder,
    LearningRateMonitor,
    ProgressBar,
    ThroughputMonitor,
)

from src.engine.checkpoint.callback import RunCheckpoint
from src.engine.checkpoint.resume import Resume
from src.engine.errors import UserError
from src.engine.loggers.metrics_csv import MetricsCsv
from src.engine.loggers.predictions import PredictionsCsv
from src.engine.loggers.trackers import Trackers
from src.engine.run.console import Bar, Console
from src.engine.run.finite import Finite
from src.engine.run.record import Summary
from src.engine.run.run import Run, RunCallback
from src.engine.run.signals import Signals

# Those of a YAML come behind the first one, and Lightning moves the checkpoint to the end.
ALWAYS_ON: tuple[tuple[str, type[RunCallback]], ...] = (
    ("summary", Summary),
    ("progress", Console),
    ("resume", Resume),
    ("finite", Finite),
    ("signals", Signals),
    ("metrics", MetricsCsv),
    ("predictions", PredictionsCsv),
    ("track", Trackers),
    ("checkpoint", RunCheckpoint),
)

# They look for a tracker in `setup`, and so come behind the callback that makes it.
MONITORS = (DeviceStatsMonitor, LearningRateMonitor, ThroughputMonitor)


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
    monitors = [callback for callback in given if isinstance(callback, MONITORS)]
    given = [callback for callback in given if callback not in monitors]
    if trainer.barebones or trainer.enable_checkpointing is False:
        always_on.pop("checkpoint")
    console = always_on["progress"]
    own_bar = any(isinstance(callback, ProgressBar) for callback in given)
    console.epochs = not (own_bar or trainer.barebones or trainer.enable_progress_bar is False)
    bar = [Bar(console.refresh_rate)] if console.epochs and sys.stdout.isatty() else []
    if not (bar or own_bar):
        trainer.enable_progress_bar = False  # or Lightning makes one
    for callback in [*given, *always_on.values(), *monitors, *callers]:
        if isinstance(callback, RunCallback):
            callback.run = run
    if monitors and not always_on["track"].needed():
        raise UserError(
            f"{type(monitors[0]).__name__} sends to a tracker, and this run has none. Set --track.tensorboard true or "
            "another tracker, or take it out of trainer.callbacks."
        )
    first, *rest = [callback for callback in always_on.values() if callback.needed()]
    # The bar is gone before others print.
    return [first, *bar, *given, *rest, *monitors, *callers]
