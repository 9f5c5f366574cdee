"""Who watches a metric looks in the right direction: best checkpoint, early stopping, plateau."""

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
