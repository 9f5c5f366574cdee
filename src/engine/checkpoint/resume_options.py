"""Options given with `--ckpt_path`: numbers of the optimizer take effect, any other change is rejected by name.

A schedule computes each learning rate from the one before it. Under a schedule, another rate, another schedule or
another optimizer has no meaning halfway through: such a change needs a new run, which starts from the weights.
"""

import functools
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer

from src.engine.errors import UserError

# What torch's schedules set besides the learning rate, by the key that they add to a group.
CYCLED = {"max_momentum": ("momentum", "betas")}


def optimization(trainer: Trainer, module: LightningModule) -> dict[str, Any]:
    """Describe the optimizers and schedules as the options made them, in plain values.

    Args:
        trainer: Before it restores a checkpoint.
        module: Its module. A LitModule's schedule is described by its arguments, any other by its state.
    """
    scheduler = getattr(module, "scheduler", None)
    made_of = plain(scheduler) if isinstance(scheduler, functools.partial) else None
    return {
        "optimizers": [
            {"class": type(each).__name__, "groups": [options_of(group) for group in each.param_groups]}
            for each in trainer.optimizers
        ],
        "schedulers": [
            (made_of or plain(config.scheduler.state_dict()))
            | {"class": type(config.scheduler).__name__, "interval": config.interval}
            for config in trainer.lr_scheduler_configs
        ],
        "groups": plain(getattr(module, "groups", None)),
    }


def options_of(group: dict[str, Any]) -> dict[str, Any]:
    """Describe a group of parameters by its options."""
    return {name: plain(value) for name, value in group.items() if name != "params"}


def plain(value: Any) -> Any:
    """Describe a value by what a checkpoint can hold and what can be compared: numbers, texts, lists and dicts."""
    match value:
        case functools.partial():
            return {"class": [plain(each) for each in (value.func, *value.args)]} | plain(value.keywords)
        case dict():
            return {str(name): plain(each) for name, each in value.items()}
        case list() | tuple():
            return [plain(each) for each in value]
        case torch.Tensor() if value.numel() == 1:
            return value.item()
        case bool() | int() | float() | str() | None:
            return value
    return getattr(value, "__name__", type(value).__name__)


def apply_changes(trainer: Trainer, before: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """Let changed numbers of the optimizer take effect in a resumed run.

    Args:
        trainer: After it restored the checkpoint, at the start of training.
        before: `optimization` of the run that wrote the checkpoint.
        now: `optimization` of this run.

    Returns:
        A text for each change: "optimizer.lr 0.01 to 0.04".

    Raises:
        UserError: If anything else changed, or a number that a schedule sets.
    """
    for what in ("optimizers", "schedulers"):
        was, given = ([each["class"] for each in options[what]] for options in (before, now))
        if was != given:
            reject(f"the {what}", ", ".join(was) or "none", ", ".join(given) or "none")
    for old, new in zip(before["schedulers"], now["schedulers"], strict=True):
        for name in sorted(old.keys() | new.keys()):
            if old.get(name) != new.get(name):
                reject(f"scheduler.{name}", old.get(name), new.get(name))
    if before["groups"] != now["groups"]:
        reject("groups", before["groups"], now["groups"])
    scheduled = [config.scheduler.optimizer for config in trainer.lr_scheduler_configs]
    changed: dict[str, None] = {}
    for optimizer, old, new in zip(trainer.optimizers, before["optimizers"], now["optimizers"], strict=True):
        # A callback that thaws a part adds groups in the course of a run.
        for group, was, given in zip(optimizer.param_groups, old["groups"], new["groups"], strict=False):
            set_by_schedule = {"lr", "initial_lr"} if optimizer in scheduled else set()
            set_by_schedule |= {name for key, names in CYCLED.items() if key in group for name in names}
            for name in [name for name in given if name in was and was[name] != given[name]]:
                if name in set_by_schedule or not is_numeric(given[name]):
                    reject(f"optimizer.{name}", was[name], given[name])
                if isinstance(group[name], torch.Tensor):
                    group[name].fill_(given[name])
                else:
                    group[name] = type(group[name])(given[name]) if isinstance(group[name], tuple) else given[name]
                changed[f"optimizer.{name} {was[name]} to {given[name]}"] = None
    return list(changed)


def is_numeric(value: Any) -> bool:
    """Return whether a value is a number, or a list of numbers."""
    parts = value if isinstance(value, list) else [value]
    return all(isinstance(part, int | float) and not isinstance(part, bool) for part in parts)


def reject(name: str, before: Any, now: Any) -> None:
    """Say that a change is impossible, and what to do.

    Raises:
        UserError: Always.
    """
    raise UserError(
        f"{name} cannot change from {before} to {now} in a resumed run. Leave the option out, or start a new run from "
        "the weights: --transfer.weights with the path of the checkpoint, in place of --ckpt_path."
    )
