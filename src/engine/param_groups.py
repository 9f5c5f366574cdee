"""Options of the optimizer for some parameters only, by their names in YAML: `model.groups`."""

import difflib
from collections.abc import Callable, Iterable
from fnmatch import fnmatchcase
from typing import Any

from torch import nn
from torch.optim import Optimizer

from src.engine.errors import UserError

# Not Any: a parser would take "*.bias" for YAML of its own.
Group = dict[str, list[str] | list[float] | float | bool | str | None]


def build_optimizer(optimizer: Callable[[Any], Optimizer], module: nn.Module, groups: list[Group] | None) -> Optimizer:
    """Make the optimizer of a module's parameters.

    Args:
        optimizer: Takes the parameters, or groups of them.
        module: Whose parameters are trained.
        groups: As for `param_groups`; also `lr_scale`, which is times the optimizer's own `lr`.

    Raises:
        UserError: If a group has an option that the optimizer does not know, or a value that is none.
    """
    if not groups:
        return optimizer(module.parameters())
    made = optimizer(param_groups(module, groups))
    for group in made.param_groups:
        _check(group, made)
        if "lr_scale" in group:
            group["lr"] = made.defaults["lr"] * group.pop("lr_scale")
    return made


def param_groups(module: nn.Module, groups: list[Group]) -> list[dict[str, Any]]:
    """Sort a module's parameters into groups, as an optimizer takes them.

    Args:
        module: The names are those of its `named_parameters()`: net.layers.0.weight.
        groups: Each has `names`, patterns such as "*.bias", and options of the optimizer. The first one that matches a
            parameter has it.

    Returns:
        First the parameters that no pattern matches, if there are any, then each group. All in one for no groups.

    Raises:
        UserError: If a group has no names, or gets no parameter.
    """
    named = dict(module.named_parameters())
    left = dict(named)
    sorted_in = []
    for number, group in enumerate(groups):
        given = group.get("names")
        if not given or not isinstance(given, list):
            raise UserError(f'model.groups[{number}] needs a list `names`, of patterns such as "*.bias"; got {group}.')
        patterns = [str(pattern) for pattern in given]
        if unknown := [pattern for pattern in patterns if not any(fnmatchcase(name, pattern) for name in named)]:
            near = difflib.get_close_matches(unknown[0], named, n=3, cutoff=0)
            raise UserError(f"model.groups[{number}]: no parameter is called {unknown[0]}; near are {', '.join(near)}.")
        taken = [name for name in left if any(fnmatchcase(name, pattern) for pattern in patterns)]
        if not taken:
            raise UserError(
                f"model.groups[{number}]: an earlier group has all parameters of {', '.join(patterns)}. The first one "
                "that matches wins: put the narrower one first."
            )
        if {"lr", "lr_scale"} <= group.keys():
            raise UserError(f"model.groups[{number}] has both lr and lr_scale: take one of them.")
        options = {key: value for key, value in group.items() if key != "names"}
        sorted_in.append({"params": [left.pop(name) for name in taken], **options})
    return [{"params": list(left.values())}] * bool(left) + sorted_in


def _check(group: dict[str, Any], optimizer: Optimizer) -> None:
    """Refuse what torch would take and not look at."""
    kind, known = type(optimizer), {**optimizer.defaults, "lr_scale": 1.0}
    for option, value in group.items():
        if isinstance(known.get(option), float) and not isinstance(value, float | int):
            raise UserError(f"model.groups: {option} must be a number; got {value!r}.")
        if option not in {*known, "params"} and kind.__module__.startswith("torch.optim"):
            near = difflib.get_close_matches(option, known, n=1)
            hint = f"Did you mean {near[0]}?" if near else f"There are {', '.join(known)}."
            raise UserError(f"model.groups: {kind.__name__} has no option {option}. {hint}")


def build_scheduler(scheduler: Callable[[Optimizer], Any], optimizer: Optimizer) -> Any:
    """Make the scheduler of an optimizer.

    Raises:
        UserError: If it gives all groups the same learning rate, which had different ones.
    """
    before = rates(optimizer.param_groups)
    made = scheduler(optimizer)
    after = rates(optimizer.param_groups)
    if len(before) > 1 and len(after) == 1 and after != {0.0}:  # a warm-up may begin with none
        raise UserError(
            f"{type(made).__name__} gives all groups of model.groups the same learning rate. Give it a list with one "
            f"for each of the {len(optimizer.param_groups)} groups (max_lr: [...]), those of no group first."
        )
    return made


def rates(groups: Iterable[dict[str, Any]]) -> set[float]:
    """The learning rates that there are."""
    return {float(group["lr"]) for group in groups}
