"""Learning-rate schedulers by torch's own names: made of several, as long as the run, or on a plateau."""

import functools
import itertools
import math
from collections.abc import Callable
from typing import Any, Literal

from lightning.pytorch import Trainer
from lightning.pytorch.cli import LRSchedulerCallable, ReduceLROnPlateau
from torch.optim import Optimizer, lr_scheduler

from src.engine.errors import UserError

# Arguments that say how long a scheduler lasts; null is the length of the run, or of its part in a sequence.
LENGTHS = ("total_steps", "T_max", "total_iters")


def sequential(
    optimizer: Optimizer, schedulers: list[LRSchedulerCallable], milestones: list[float], last_epoch: int = -1
) -> lr_scheduler.SequentialLR:
    """One scheduler after the other.

    Args:
        optimizer: Whose learning rate it is.
        schedulers: In their order.
        milestones: Where the next one begins: after so many moves, or below 1 after this share of the run.
        last_epoch: As torch has it.
    """
    return lr_scheduler.SequentialLR(
        optimizer, [make(optimizer) for make in schedulers], [int(milestone) for milestone in milestones], last_epoch
    )


def chained(optimizer: Optimizer, schedulers: list[LRSchedulerCallable]) -> lr_scheduler.ChainedScheduler:
    """Several schedulers at once: their factors are multiplied."""
    return lr_scheduler.ChainedScheduler([make(optimizer) for make in schedulers], optimizer)


def cosine(
    optimizer: Optimizer, T_max: int | None = None, eta_min: float = 0.0, last_epoch: int = -1
) -> lr_scheduler.CosineAnnealingLR:
    """Down to `eta_min` along half a cosine."""
    return lr_scheduler.CosineAnnealingLR(optimizer, _known(T_max), eta_min, last_epoch)


def linear(
    optimizer: Optimizer,
    start_factor: float = 1.0 / 3,
    end_factor: float = 1.0,
    total_iters: int | None = 5,
    last_epoch: int = -1,
) -> lr_scheduler.LinearLR:
    """From one factor of the learning rate to another."""
    return lr_scheduler.LinearLR(optimizer, start_factor, end_factor, _known(total_iters), last_epoch)


def constant(
    optimizer: Optimizer, factor: float = 1.0 / 3, total_iters: int | None = 5, last_epoch: int = -1
) -> lr_scheduler.ConstantLR:
    """A factor of the learning rate, until it is 1."""
    return lr_scheduler.ConstantLR(optimizer, factor, _known(total_iters), last_epoch)


def polynomial(
    optimizer: Optimizer, total_iters: int | None = 5, power: float = 1.0, last_epoch: int = -1
) -> lr_scheduler.PolynomialLR:
    """Down to 0 along a power."""
    return lr_scheduler.PolynomialLR(optimizer, _known(total_iters), power, last_epoch)


def plateau(
    optimizer: Optimizer,
    monitor: str = "val/loss",
    mode: Literal["min", "max"] = "min",
    factor: float = 0.1,
    patience: int = 10,
    threshold: float = 1e-4,
    threshold_mode: Literal["rel", "abs"] = "rel",
    cooldown: int = 0,
    min_lr: list[float] | float = 0.0,
    eps: float = 1e-8,
) -> ReduceLROnPlateau:
    """Lower the learning rate where a metric no longer improves; with torch's arguments and the metric."""
    return ReduceLROnPlateau(
        optimizer, monitor, mode, factor, patience, threshold, threshold_mode, cooldown, min_lr, eps
    )


def _known(length: int | None) -> int:
    if length is None:
        raise UserError("Nobody said how long the run is: T_max or total_iters of null is for LitModule. Set a number.")
    return length


# What makes a scheduler of torch's where its own arguments cannot be written in YAML, or not before the run is known.
MAKERS: dict[type, Callable[..., Any]] = {
    lr_scheduler.SequentialLR: sequential,
    lr_scheduler.ChainedScheduler: chained,
    lr_scheduler.CosineAnnealingLR: cosine,
    lr_scheduler.LinearLR: linear,
    lr_scheduler.ConstantLR: constant,
    lr_scheduler.PolynomialLR: polynomial,
    lr_scheduler.ReduceLROnPlateau: plateau,
}


def takes_the_first(function: Callable[..., Any]) -> bool:
    """Whether a function makes an optimizer or a scheduler, and so is called later, with its first argument."""
    made = getattr(function, "__annotations__", {}).get("return")
    return isinstance(made, type) and issubclass(made, Optimizer | lr_scheduler.LRScheduler)


def needs_length(scheduler: Any) -> bool:
    """Whether a scheduler, or a part of it, is to be as long as the run."""
    if not isinstance(scheduler, functools.partial):
        return False
    given = scheduler.keywords
    shares = "schedulers" in given and any(milestone < 1 for milestone in given.get("milestones", ()))
    return bool(_open(given)) or shares or any(needs_length(part) for part in given.get("schedulers", ()))


def _open(given: dict[str, Any]) -> list[str]:
    if given.get("epochs") is not None:  # OneCycleLR knows its length by it
        return []
    return [name for name in LENGTHS if name in given and given[name] is None]


def fill_length(scheduler: Any, length: int) -> Any:
    """A scheduler that is as long as the run where YAML says null; parts of a sequence are as long as their share.

    Args:
        scheduler: Takes the optimizer.
        length: How often it moves on in the run.

    Raises:
        UserError: If the milestones of a sequence do not rise within the run.
    """
    if not needs_length(scheduler):
        return scheduler
    given = dict(scheduler.keywords) | dict.fromkeys(_open(scheduler.keywords), length)
    if parts := given.get("schedulers"):
        spans = [length] * len(parts)
        if "milestones" in given:
            ends = given["milestones"] = [round(end * length) if end < 1 else int(end) for end in given["milestones"]]
            spans = [end - begin for begin, end in itertools.pairwise([0, *ends, length])]
        if min(spans) < 1:
            raise UserError(
                f"milestones {ends} do not rise within the {length} moves of the run. Lower them, or give shares "
                "below 1 (0.1); --model.scheduler_interval step moves at each step."
            )
        given["schedulers"] = [fill_length(part, span) for part, span in zip(parts, spans, strict=False)]
    return functools.partial(scheduler.func, *scheduler.args, **given)


def run_length(trainer: Trainer, interval: str) -> int:
    """How often a scheduler moves on in a run.

    Args:
        trainer: Of the run.
        interval: `step` or `epoch`.

    Raises:
        UserError: If the run has no end that is known before.
    """
    length = trainer.estimated_stepping_batches if interval == "step" else (trainer.max_epochs or -1)
    if length != math.inf and length >= 1:
        return int(length)
    # What helps a loader with a length, and a stream, which has none. Each way is enough.
    ways = "--trainer.max_epochs"
    if interval == "step" and length == math.inf:
        ways = "--trainer.max_steps; or --trainer.max_epochs, for a stream with --trainer.limit_train_batches"
    elif interval == "step":
        ways = "--trainer.max_steps or --trainer.limit_train_batches"
    raise UserError(
        f"A scheduler is to be as long as the run (total_steps, T_max or total_iters: null), but nobody knows how many "
        f"{interval}s that is: max_epochs={trainer.max_epochs}, max_steps={trainer.max_steps}. Set {ways}; or give the "
        "scheduler a number."
    )


def scheduler_config(scheduler: Any, interval: str, trainer: Trainer) -> dict[str, Any]:
    """What Lightning wants to know of a scheduler.

    Args:
        scheduler: That was made.
        interval: `step` or `epoch`.
        trainer: Of the run.

    Raises:
        UserError: If a plateau is looked for more often than its metric is there.
    """
    config: dict[str, Any] = {"scheduler": scheduler, "interval": interval}
    if not isinstance(scheduler, ReduceLROnPlateau):
        return config
    monitor = scheduler.monitor
    if interval == "step" and (monitor.startswith("val/") or monitor == "train/loss"):
        raise UserError(
            f"ReduceLROnPlateau watches {monitor}, which is not there at each step. "
            "Set --model.scheduler_interval epoch."
        )
    # Between two validations there is nothing new to see.
    every = trainer.check_val_every_n_epoch if monitor.startswith("val/") else None
    return config | {"monitor": monitor, "frequency": every or 1}
