"""Options given beside a checkpoint: what a run that goes on does with another learning rate, or another optimizer."""

from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from src.engine.base_module import BaseModule
from src.engine.errors import UserError
from src.engine.param_groups import param_groups

SEQUENCES = ("SequentialLR", "ChainedScheduler")  # each part keeps a rate of its own
# Schedules that set these in each group at every step: what the optimizer was given has no say.
CYCLED = {"lr": "max_lr", "momentum": "max_momentum", "betas": "max_momentum"}

# Of torch's schedules the arguments that are read at each step. Others are read when the schedule is made: a new value
# would be said to act and would not.
READ_AT_EACH_STEP = {
    "CosineAnnealingLR": {"T_max", "eta_min"},
    "CosineAnnealingWarmRestarts": {"T_mult", "eta_min"},
    "ExponentialLR": {"gamma"},
    "MultiStepLR": {"gamma"},
    "PolynomialLR": {"power", "total_iters"},
    "ReduceLROnPlateau": {"factor", "patience", "threshold", "cooldown", "eps"},
    "StepLR": {"step_size", "gamma"},
}


def options_in_use(trainer: Trainer, module: LightningModule) -> dict[str, Any]:
    """What a checkpoint keeps of the options, as plain values.

    Returns:
        Of each optimizer its class and defaults, of each scheduler its class; of a LitModule's scheduler its arguments.
    """
    partial = getattr(module, "scheduler", None)
    return {
        "optimizers": [[kind(each), plain(each.defaults)] for each in trainer.optimizers],
        "schedulers": [kind(config.scheduler) for config in trainer.lr_scheduler_configs],
        "scheduler": plain(getattr(partial, "keywords", {})),
    }


def kind(thing: Any) -> str:
    """Its class, in words."""
    return type(thing).__name__


def plain(options: dict[str, Any]) -> dict[str, Any]:
    """Those of them that a checkpoint can hold and that can be compared."""

    def is_plain(value: Any) -> bool:
        if isinstance(value, list | tuple):
            return all(map(is_plain, value))
        return value is None or isinstance(value, bool | int | float | str)

    return {name: value for name, value in options.items() if is_plain(value)}


def take_up_options(trainer: Trainer, module: LightningModule, saved: dict[str, Any]) -> list[str]:
    """Let options that were given beside a checkpoint act, after its states were loaded.

    Args:
        trainer: At the start of training.
        module: Of it.
        saved: As `options_in_use` gave it when the checkpoint was written.

    Returns:
        In words, what changed.

    Raises:
        UserError: If a change cannot act: another class, or a schedule that cannot be bent amid its way.
    """
    now = options_in_use(trainer, module)
    # Lightning's averaging of weights puts a scheduler of its own in the place of any.
    for what in ("optimizers", *(["schedulers"] if "SWALR" not in saved["schedulers"] else [])):
        classes = [[each[0] if isinstance(each, list) else each for each in options[what]] for options in (saved, now)]
        if classes[0] != classes[1]:
            was, given = (", ".join(names) or "none" for names in classes)
            raise UserError(
                f"The run has {was} for its {what}, with these options it would have {given}: their states mean "
                "nothing to another class. Leave the option out, or begin a new run from the weights "
                "(--transfer.weights)."
            )
    changed = [f"scheduler.{line}" for line in _bend(trainer, saved["scheduler"], now["scheduler"])]
    for optimizer, (_, before), (_, after) in zip(
        trainer.optimizers, saved["optimizers"], now["optimizers"], strict=True
    ):
        for name in [name for name in after if name in before and list_of(before[name]) != list_of(after[name])]:
            if CYCLED.get(name) in optimizer.param_groups[0]:
                changed.append(f"optimizer.{name} has no effect: the schedule sets it")
                continue
            groups: Any = getattr(module, "groups", None) if isinstance(module, BaseModule) else None
            own = [name in group for group in param_groups(module, groups or [])]
            _set(trainer, optimizer, own, name, before[name], after[name])
            changed.append(f"optimizer.{name} {before[name]} to {after[name]}")
    return changed


def list_of(value: Any) -> Any:
    """A tuple comes back from a checkpoint as it was, from YAML as a list."""
    return list(value) if isinstance(value, list | tuple) else value


def _set(trainer: Trainer, optimizer: Optimizer, own: list[bool], name: str, before: Any, after: Any) -> None:
    """Change an option in each group that has none of its own; the learning rate keeps its place in the schedule."""
    for number, group in enumerate(optimizer.param_groups):
        if len(own) == len(optimizer.param_groups) and own[number]:
            continue
        if name != "lr":
            group[name] = after
            continue
        ratio = after / before if before else 0.0
        if any(kind(config.scheduler) in SEQUENCES for config in trainer.lr_scheduler_configs):
            raise UserError(
                f"optimizer.lr cannot change from {before} to {after} amid a schedule of several parts. Leave it out, "
                "or begin a new run from the weights (--transfer.weights)."
            )
        for key in ("lr", "initial_lr"):
            if key in group:
                new = group[key] * ratio if before else after
                group[key] = group[key].copy_(new) if isinstance(group[key], torch.Tensor) else new
        for config in trainer.lr_scheduler_configs:
            if config.scheduler.optimizer is optimizer and hasattr(config.scheduler, "base_lrs"):
                config.scheduler.base_lrs[number] *= ratio


def _bend(trainer: Trainer, before: dict[str, Any], after: dict[str, Any]) -> list[str]:
    changed = []
    for name in sorted(before.keys() | after.keys()):
        was, given = before.get(name), after.get(name)
        if list_of(was) == list_of(given) or (name == "total_steps" and None in (was, given)):
            continue
        scheduler: Any = trainer.lr_scheduler_configs[0].scheduler
        groups = scheduler.optimizer.param_groups
        if name == "max_lr" and isinstance(was, float) and isinstance(given, float) and was:
            for group in groups:
                for key in ("lr", "max_lr", "initial_lr", "min_lr"):
                    group[key] *= given / was
        elif is_read_at_each_step(scheduler, name) and type(vars(scheduler).get(name)) is type(given) is not type(None):
            setattr(scheduler, name, given)
        else:
            raise UserError(
                f"scheduler.{name} cannot change from {was} to {given} amid the schedule of {kind(scheduler)}. Leave "
                "it out, or begin a new run from the weights (--transfer.weights)."
            )
        changed.append(f"{name} {was} to {given}")
    return changed


def is_read_at_each_step(scheduler: Any, name: str) -> bool:
    """Whether an attribute of a schedule decides what comes next; of a class of one's own each is taken to."""
    known = (each for each in type(scheduler).__mro__ if each.__module__.startswith(("torch.", "lightning.")))
    base = next(known, LRScheduler)
    return base is LRScheduler or name in READ_AT_EACH_STEP.get(base.__name__, set())
