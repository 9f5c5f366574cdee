"""Optimizers with options for groups of parameters, and learning-rate schedulers as long as the run."""

import functools
import math
from collections.abc import Callable
from fnmatch import fnmatchcase
from typing import Any

from torch import nn
from torch.optim import Optimizer, lr_scheduler

from src.engine.errors import UserError

# `names`, patterns such as "*.bias", and options of the optimizer; `lr_scale` multiplies the optimizer's own `lr`.
# Not Any: a parser would take "*.bias" for YAML of its own.
Group = dict[str, list[str] | list[float] | float | bool | str | None]
# Arguments that say how long a scheduler lasts; null is the length of the run.
LENGTHS = ("total_steps", "T_max", "total_iters")


class WarmupCosine(lr_scheduler.LambdaLR):
    """Raises the learning rate along a line, then lowers it along half a cosine.

    Args:
        total_steps: Steps of both parts, or epochs (`scheduler_interval`); null is the length of the run.
        warmup: Share of `total_steps` in which the learning rate rises, 0 to 1.
        final: What is left of the learning rate at the end, as a factor.
    """

    def __init__(
        self, optimizer: Optimizer, total_steps: int | None = None, warmup: float = 0.1, final: float = 0.0
    ) -> None:
        if total_steps is None:
            raise UserError("WarmupCosine needs total_steps; a LitModule fills in the length of the run.")
        self.total_steps, rising = total_steps, warmup * total_steps

        def factor(step: int) -> float:
            if step < rising:
                return step / rising
            place = min((step - rising) / max(total_steps - rising, 1), 1)
            return final + (1 - final) * (1 + math.cos(math.pi * place)) / 2

        super().__init__(optimizer, factor)


def configure(module: Any) -> Any:
    """Return what `configure_optimizers` of a LitModule returns.

    Raises:
        UserError: If the options do not fit the optimizer, the scheduler or the run.
    """
    optimizer = build_optimizer(module.optimizer, module, module.groups)
    if module.scheduler is None:
        return optimizer
    before = {float(group["lr"]) for group in optimizer.param_groups}
    schedule = fill_lengths(module.scheduler, module)(optimizer)
    after = {float(group["lr"]) for group in optimizer.param_groups}
    if len(before) > 1 and len(after) == 1 and after != {0.0}:  # a warm-up may begin with none
        raise UserError(
            f"{type(schedule).__name__} gives all groups of model.groups the same learning rate. Give it a list with "
            f"one for each of the {len(optimizer.param_groups)} groups (max_lr: [...]), those of no group first."
        )
    config = {"scheduler": schedule, "interval": module.scheduler_interval}
    if isinstance(schedule, lr_scheduler.ReduceLROnPlateau):
        monitor = getattr(schedule, "monitor", "val/loss")  # torch's own has none
        # Between two validations there is nothing new to see.
        every = module.trainer.check_val_every_n_epoch if monitor.startswith("val/") else None
        config |= {"monitor": monitor, "frequency": every or 1}
    return {"optimizer": optimizer, "lr_scheduler": config}


def build_optimizer(optimizer: Callable[[Any], Optimizer], module: nn.Module, groups: list[Group] | None) -> Optimizer:
    """Make the optimizer of a module's parameters; without groups, see `param_groups`, all are in one.

    Raises:
        UserError: If a group has an option that the optimizer lacks, or no number where a number belongs.
    """
    if not groups:
        return optimizer(module.parameters())
    made = optimizer(param_groups(module, groups))
    known = {"params": None, "lr_scale": 1.0, **made.defaults}
    for group in made.param_groups:
        for option, value in group.items():
            if isinstance(known.get(option), float) and not isinstance(value, float | int):
                raise UserError(f"model.groups: {option} must be a number; got {value!r}.")
            # An optimizer outside of torch may read options without a default.
            if option not in known and type(made).__module__.startswith("torch.optim"):
                name = type(made).__name__
                raise UserError(f"model.groups: {name} has no option {option}. It has {', '.join(made.defaults)}.")
        if "lr_scale" in group:
            group["lr"] = made.defaults["lr"] * group.pop("lr_scale")
    return made


def param_groups(module: nn.Module, groups: list[Group]) -> list[dict[str, Any]]:
    """Sort parameters into groups, as an optimizer takes them.

    A parameter gets the options of all groups that match one of its names; the later one wins, so the wider one comes
    first: `[{names: ["*.bias"], weight_decay: 0}, {names: ["net.body.*"], lr_scale: 0.1}]`.

    Args:
        module: The names are those of its `named_parameters()`: net.layers.0.weight. Tied weights have several.
        groups: Each has `names`, and options of the optimizer or `lr_scale`.

    Returns:
        A group for each set of options that some parameter has: of none, of groups [0], [0, 1], [1] ... in this order.

    Raises:
        UserError: If a group matches no parameter, or has an option that takes effect nowhere.
    """
    named = list(module.named_parameters(remove_duplicate=False))
    # Of each parameter the number of the group from which an option comes, and its name there.
    chosen: dict[nn.Parameter, dict[str, tuple[int, str]]] = {parameter: {} for _, parameter in named}
    for number, group in enumerate(groups):
        patterns = group.get("names")
        if not isinstance(patterns, list):
            raise UserError(f'model.groups[{number}] needs a list `names`, of patterns such as "*.bias"; got {group}.')
        # `lr` and `lr_scale` are one option.
        options = {"lr" if key == "lr_scale" else key: (number, key) for key in group if key != "names"}
        for pattern in map(str, patterns):
            found = [parameter for name, parameter in named if fnmatchcase(name, pattern)]
            if not found:
                some = ", ".join(name for name, _ in named[:4])
                raise UserError(f"model.groups[{number}]: no parameter is called {pattern}. They are called {some} ...")
            for parameter in found:
                chosen[parameter] |= options
    members: dict[tuple[tuple[int, str], ...], list[nn.Parameter]] = {}
    for parameter, options in chosen.items():
        members.setdefault(tuple(sorted(options.values())), []).append(parameter)
    given = {(number, key) for number, group in enumerate(groups) for key in group if key != "names"}
    if unused := given.difference(*members):
        number, key = min(unused)
        raise UserError(
            f"model.groups[{number}]: {key} has no effect, because a later group or rate overrides it for all of "
            f"{groups[number]['names']}. Put the narrower group last."
        )
    return [{"params": members[key]} | {name: groups[number][name] for number, name in key} for key in sorted(members)]


def fill_lengths(scheduler: Any, module: Any) -> Any:
    """Fill in the lengths that YAML leaves null: how often the scheduler of a LitModule moves in the run."""
    given = scheduler.keywords if isinstance(scheduler, functools.partial) else {}
    missing = [name for name in LENGTHS if name in given and given[name] is None]
    if not missing or given.get("epochs") is not None:  # OneCycleLR knows its length by it
        return scheduler
    return functools.partial(scheduler, **dict.fromkeys(missing, run_length(module)))


def run_length(module: Any) -> int:
    """Return how many times the scheduler of a LitModule steps in the run; a resumed run keeps its first value.

    Raises:
        UserError: If the run has no known end.
    """
    # Asked for it, Lightning sets up the data, on a resume too early: the checkpoint has brought it.
    if module.schedule_length is None:
        trainer, interval = module.trainer, module.scheduler_interval
        length = trainer.estimated_stepping_batches if interval == "step" else (trainer.max_epochs or -1)
        if length == math.inf or length < 1:
            steps = "--trainer.max_steps, or --trainer.max_epochs (for a stream with --trainer.limit_train_batches)"
            raise UserError(
                f"A length of the scheduler ({', '.join(LENGTHS)}) is null, and the run has no known number of "
                f"{interval}s. Set {steps if interval == 'step' else '--trainer.max_epochs'}; or give a number."
            )
        module.schedule_length = int(length)
    return int(module.schedule_length)
