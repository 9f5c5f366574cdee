"""Options of the optimizer for some parameters only, by their names in YAML: `model.groups`.

A parameter gets the options of all groups that match it; where two of them set the same option, the later one wins. So
put the wider group first: `[{names: ["*.bias"], weight_decay: 0}, {names: ["net.body.*"], lr_scale: 0.1}]` trains the
biases of the body without decay and at a tenth of the rate.
"""

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
        module: The names are those of its `named_parameters()`: net.layers.0.weight. A parameter with several names,
            as tied weights have, is matched by each.
        groups: Each has `names`, patterns such as "*.bias", and options of the optimizer. `lr` and `lr_scale` replace
            one another.

    Returns:
        One group for each set of given groups that match some parameter: none, [0], [0, 1], [1] ... in this order.

    Raises:
        UserError: If a group has no names, or an option that later groups replace for all of its parameters.
    """
    for number, group in enumerate(groups):
        _check_names(number, group, [name for name, _ in module.named_parameters(remove_duplicate=False)])
    matching: dict[nn.Parameter, set[int]] = {}
    for name, parameter in module.named_parameters(remove_duplicate=False):
        found = {k for k, group in enumerate(groups) if any(fnmatchcase(name, pattern) for pattern in patterns(group))}
        matching.setdefault(parameter, set()).update(found)
    made, in_use = [], set()
    for numbers in sorted({tuple(sorted(each)) for each in matching.values()}):
        options: dict[str, tuple[Any, int]] = {}
        for number in numbers:
            for option, value in groups[number].items():
                for replaced in ("lr", "lr_scale") if option in ("lr", "lr_scale") else (option,):
                    options.pop(replaced, None)
                options[option] = (value, number)
        options.pop("names", None)
        in_use |= {(option, number) for option, (_, number) in options.items()}
        members = [parameter for parameter, each in matching.items() if tuple(sorted(each)) == numbers]
        made.append({"params": members} | {option: value for option, (value, _) in options.items()})
    for number, group in enumerate(groups):
        for option in group.keys() - {"names"}:
            if (option, number) not in in_use:
                raise UserError(
                    f"model.groups[{number}]: later groups replace {option} for all parameters of "
                    f"{', '.join(patterns(group))}. The later one wins: put the narrower one last."
                )
    return made


def patterns(group: Group) -> list[str]:
    """Return the patterns of the names of a group's parameters."""
    names = group["names"]
    return [str(pattern) for pattern in names] if isinstance(names, list) else []


def _check_names(number: int, group: Group, known: list[str]) -> None:
    if not group.get("names") or not isinstance(group["names"], list):
        raise UserError(f'model.groups[{number}] needs a list `names`, of patterns such as "*.bias"; got {group}.')
    if unknown := [pattern for pattern in patterns(group) if not any(fnmatchcase(name, pattern) for name in known)]:
        near = difflib.get_close_matches(unknown[0], known, n=3, cutoff=0)
        raise UserError(f"model.groups[{number}]: no parameter is called {unknown[0]}; near are {', '.join(near)}.")
    if {"lr", "lr_scale"} <= group.keys():
        raise UserError(f"model.groups[{number}] has both lr and lr_scale: take one of them.")


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
