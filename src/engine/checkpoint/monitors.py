"""Who watches a metric looks in the right direction: best checkpoint, early stopping, plateau."""

import sys
from typing import Any

from lightning.pytorch import LightningModule, Trainer

from src.engine.errors import UserError


def larger_is_better(module: Any, name: str) -> bool | None:
    """Which direction of a logged number is the good one; None where nobody knows.

    Args:
        module: Whose `metrics` know of themselves.
        name: As it was logged: `val/acc`, `val/acc/night`.
    """
    words = name.split("/")
    if len(words) < 2:
        return None
    if words[1] == "loss":
        return False
    metrics: Any = getattr(module, "metrics", {})
    better = getattr(metrics[words[1]], "higher_is_better", None) if words[1] in metrics else None
    return None if better is None else bool(better)


def refuse_wrong_directions(trainer: Trainer, module: LightningModule) -> None:
    """See that early stopping and plateau schedulers do not take an improvement for its opposite.

    Raises:
        UserError: If one does.
    """
    watchers: list[tuple[str, str | None, str]] = [
        ("EarlyStopping", each.monitor, each.mode) for each in trainer.early_stopping_callbacks
    ]
    for config in trainer.lr_scheduler_configs:
        if mode := getattr(config.scheduler, "mode", None):
            watchers.append((type(config.scheduler).__name__, config.monitor, mode))
    for name, monitor, mode in watchers:
        larger = larger_is_better(module, monitor or "")
        if larger is not None and mode != ("max" if larger else "min"):
            raise UserError(
                f"{name} watches {monitor} with mode: {mode}, but a {'larger' if larger else 'smaller'} one is better. "
                f"Set mode: {'max' if larger else 'min'}."
            )


def refuse_what_is_never_validated(trainer: Trainer, monitor: str) -> None:
    """See that somebody who asks for the best of a metric gets one.

    Raises:
        UserError: If the run has no validation and another monitor than the default.
    """
    if monitor != "val/loss" and not trainer.enable_validation:
        raise UserError(
            f"checkpoint.monitor={monitor!r} chooses the best checkpoint, but this run has no validation. Give it "
            "validation data and --trainer.limit_val_batches above 0, or leave out --checkpoint.monitor."
        )


def tell_that_it_is_not_logged(trainer: Trainer, monitor: str) -> bool:
    """Say as early as possible that there is nothing by which a checkpoint could be the best.

    Returns:
        Whether it could be said: in the sanity check Lightning forgets what it logs for each of several data sets.

    Raises:
        UserError: If somebody asked for it.
    """
    if trainer.sanity_checking and len(trainer.num_sanity_val_batches) > 1:
        return False
    logged = ", ".join(sorted(trainer.callback_metrics))
    there = f"there are {logged}" if logged else "nothing is"
    told = f"checkpoint.monitor={monitor!r} is not logged; {there}. Set --checkpoint.monitor."
    if monitor != "val/loss":
        raise UserError(told)
    if trainer.is_global_zero:
        print(f"warning: {told} Without it there will be no best.ckpt.", file=sys.stderr, flush=True)
    return True
