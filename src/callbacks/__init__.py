"""Each file here holds one callback that is on in every run; its arguments are options under the file's name.

`progress.py` gives `--progress.refresh_rate 5`. Delete a file (and its test) and what it does is gone; nothing else
changes. A callback for one experiment alone lives elsewhere and is named in YAML, under `trainer.callbacks`.
"""

import importlib
import inspect
import pkgutil
from typing import Any

from lightning.pytorch import Callback
from lightning.pytorch.callbacks import Checkpoint, ProgressBar

# At every step Lightning goes through each of these of every callback, also where there is nothing to do.
EACH_STEP = (
    "on_train_batch_start",
    "on_train_batch_end",
    "on_before_backward",
    "on_after_backward",
    "on_before_optimizer_step",
    "on_before_zero_grad",
)


def always_on() -> dict[str, type[Callback]]:
    """Those that need no argument, by the file's name."""
    found: dict[str, type[Callback]] = {}
    for info in pkgutil.iter_modules(__path__):
        module = importlib.import_module(f"{__name__}.{info.name}")
        for value in vars(module).values():
            if isinstance(value, type) and issubclass(value, Callback) and value.__module__ == module.__name__:
                parameters = inspect.signature(value).parameters.values()
                if all(parameter.default is not parameter.empty for parameter in parameters):
                    found[info.name] = value
    return found


def join(trainer: Any, ours: list[Callback]) -> list[Callback]:
    """The callbacks of the config and ours: one progress bar, and none of a kind that an option turns off.

    Our checkpoint comes first: Lightning and the other callbacks ask the first one where the run is saved. The progress
    bar is next: at each end it is gone before the others print.

    Args:
        trainer: The trainer's part of the config.
        ours: One of each that is always on.
    """
    given = trainer.callbacks or []
    given = given if isinstance(given, list) else [given]
    for kind, on in ((Checkpoint, trainer.enable_checkpointing), (ProgressBar, trainer.enable_progress_bar)):
        replaced = kind is ProgressBar and any(isinstance(callback, kind) for callback in given)
        if on is False or trainer.barebones or replaced:
            ours = [callback for callback in ours if not isinstance(callback, kind)]
    for callback in ours:
        for hook in EACH_STEP:
            if getattr(type(callback), hook) is getattr(Callback, hook):
                setattr(callback, hook, None)  # what cannot be called is passed over
    first = [callback for kind in (Checkpoint, ProgressBar) for callback in ours if isinstance(callback, kind)]
    return [*first, *given, *(callback for callback in ours if callback not in first)]
