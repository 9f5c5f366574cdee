"""Optimizers with options for groups of parameters, and learning-rate schedulers as long as the run."""

import difflib
import functools
import itertools
import math
from collections.abc import Callable, Iterable
from fnmatch import fnmatchcase
from typing import Any

from lightning.pytorch import Trainer
from lightning.pytorch.cli import LRSchedulerCallable
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
        optimizer: Whose learning rate it sets.
        total_steps: Steps of both parts, or epochs (`scheduler_interval`); null is the length of the run.
        warmup: Share of `total_steps` in which the learning rate rises, 0 to 1.
        final: What is left of the learning rate at the end, as a factor.
    """

    def __init__(
        self, optimizer: Optimizer, total_steps: int | None = None, warmup: float = 0.1, final: float = 0.0
    ) -> None:
        if total_steps is None:
            raise UserError("WarmupCosine needs total_steps; a LitModule fills in the length of the run.")
        self.total_steps = total_steps
        rising = warmup * total_steps

        def factor(step: int) -> float:
            if step < rising:
                return step / rising
            place = min((step - rising) / max(total_steps - rising, 1), 1)
            return final + (1 - final) * (1 + math.cos(math.pi * place)) / 2

        super().__init__(optimizer, factor)


class SequentialSchedule(lr_scheduler.SequentialLR):
    """Runs one scheduler after the other: torch's SequentialLR, whose parts YAML can name.

    Args:
        optimizer: Whose learning rate it sets.
        schedulers: In their order. A length of null is that of the part.
        milestones: Where the next one begins, in steps or epochs; a number below 1 is a share of the run.
    """

    def __init__(self, optimizer: Optimizer, schedulers: list[LRSchedulerCallable], milestones: list[float]) -> None:
        if len(milestones) != len(schedulers) - 1:
            raise UserError(f"{len(schedulers)} schedulers need {len(schedulers) - 1} milestones; got {milestones}.")
        parts: list[Any] = [make(optimizer) for make in schedulers]
        super().__init__(optimizer, parts, [int(milestone) for milestone in milestones])


def configure(
    module: Any,
    optimizer: Callable[[Any], Optimizer],
    groups: list[Group] | None,
    scheduler: Callable[[Optimizer], Any] | None,
    interval: str,
) -> Any:
    """Return what `configure_optimizers` of a module returns.

    Args:
        module: A BaseModule with a trainer; its `schedule_length` is set where a length is null.
        optimizer: Takes the parameters, or groups of them.
        groups: Options for some parameters; see `build_optimizer`.
        scheduler: Takes the optimizer.
        interval: `step` or `epoch`: when the scheduler moves.

    Raises:
        UserError: If the options do not fit the optimizer, the scheduler or the run.
    """
    made = build_optimizer(optimizer, module, groups)
    if scheduler is None:
        return made

    def length() -> int:
        # Asked for it, Lightning sets up the data, on a resume too early: the checkpoint has brought it.
        module.schedule_length = module.schedule_length or run_length(module.trainer, interval)
        return int(module.schedule_length)

    schedule = build_scheduler(fill_lengths(scheduler, length), made)
    config = {"scheduler": schedule, "interval": interval}
    if isinstance(schedule, lr_scheduler.ReduceLROnPlateau):
        config |= plateau_options(schedule, interval, module.trainer)
    return {"optimizer": made, "lr_scheduler": config}


def build_optimizer(optimizer: Callable[[Any], Optimizer], module: nn.Module, groups: list[Group] | None) -> Optimizer:
    """Make the optimizer of a module's parameters.

    Args:
        optimizer: Takes the parameters, or groups of them.
        module: Whose parameters are trained.
        groups: See `param_groups`; none leaves all parameters in one group.

    Raises:
        UserError: If a group has an option that the optimizer lacks, or no number where a number belongs.
    """
    if not groups:
        return optimizer(module.parameters())
    made = optimizer(param_groups(module, groups))
    name, known = type(made).__name__, {**made.defaults, "lr_scale": 1.0}
    for group in made.param_groups:
        for option, value in group.items():
            if isinstance(known.get(option), float) and not isinstance(value, float | int):
                raise UserError(f"model.groups: {option} must be a number; got {value!r}.")
            # An optimizer outside of torch may read options without a default.
            if option not in {*known, "params"} and type(made).__module__.startswith("torch.optim"):
                raise UserError(f"model.groups: {name} has no option {option}. Its options are {', '.join(known)}.")
        if "lr_scale" in group:
            group["lr"] = made.defaults["lr"] * group.pop("lr_scale")
    return made


def param_groups(module: nn.Module, groups: list[Group]) -> list[dict[str, Any]]:
    """Sort parameters into groups, as an optimizer takes them.

    A parameter gets the options of all groups that match one of its names. Where two set the same option, the later one
    wins; `lr` and `lr_scale` replace one another. So the wider group comes first:
    `[{names: ["*.bias"], weight_decay: 0}, {names: ["net.body.*"], lr_scale: 0.1}]`.

    Args:
        module: The names are those of its `named_parameters()`: net.layers.0.weight. Tied weights have several.
        groups: Each has `names`, and options of the optimizer or `lr_scale`.

    Returns:
        A group for each set of given groups that match some parameter: none, [0], [0, 1], [1] ... in this order.

    Raises:
        UserError: If a group matches no parameter, or has an option that later groups replace everywhere.
    """
    named = list(module.named_parameters(remove_duplicate=False))
    for number, group in enumerate(groups):
        check_group(f"model.groups[{number}]", group, [name for name, _ in named])
    matching: dict[nn.Parameter, set[int]] = {}
    for name, parameter in named:
        matching.setdefault(parameter, set()).update(k for k, group in enumerate(groups) if matches(group, name))
    members: dict[tuple[int, ...], list[nn.Parameter]] = {}
    for parameter, found in matching.items():
        members.setdefault(tuple(sorted(found)), []).append(parameter)
    for number, group in enumerate(groups):
        for option in group.keys() - {"names"}:
            rivals = [[groups[k] for k in numbers if k > number] for numbers in members if number in numbers]
            if all(any(option in later for later in each) for each in rivals):
                raise UserError(
                    f"model.groups[{number}]: later groups replace {option} for all parameters of {group['names']}. "
                    "The later one wins: put the narrower one last."
                )
    return [{"params": members[numbers]} | merge(groups[k] for k in numbers) for numbers in sorted(members)]


def check_group(where: str, group: Group, known: list[str]) -> None:
    """Refuse a group whose patterns match nothing, or that says two things at once."""
    patterns = group.get("names")
    if not patterns or not isinstance(patterns, list):
        raise UserError(f'{where} needs a list `names`, of patterns such as "*.bias"; got {group}.')
    for pattern in map(str, patterns):
        if not any(fnmatchcase(name, pattern) for name in known):
            near = ", ".join(difflib.get_close_matches(pattern, known, n=3, cutoff=0))
            raise UserError(f"{where}: no parameter is called {pattern}; near are {near}.")
    if {"lr", "lr_scale"} <= group.keys():
        raise UserError(f"{where} has both lr and lr_scale: take one of them.")


def matches(group: Group, name: str) -> bool:
    """Return whether a group has the parameter of this name."""
    patterns = group["names"]
    return isinstance(patterns, list) and any(fnmatchcase(name, str(pattern)) for pattern in patterns)


def merge(groups: Iterable[Group]) -> dict[str, Any]:
    """Return the options of several groups; the later one wins."""
    options: dict[str, Any] = {}
    for group in groups:
        rates = {"lr", "lr_scale"} if {"lr", "lr_scale"} & group.keys() else set()
        options = {option: value for option, value in options.items() if option not in rates} | group
    options.pop("names", None)
    return options


def build_scheduler(scheduler: Callable[[Optimizer], Any], optimizer: Optimizer) -> Any:
    """Make the scheduler of an optimizer.

    Raises:
        UserError: If it gives all groups the same learning rate, which had different ones.
    """
    before = {float(group["lr"]) for group in optimizer.param_groups}
    made = scheduler(optimizer)
    after = {float(group["lr"]) for group in optimizer.param_groups}
    if len(before) > 1 and len(after) == 1 and after != {0.0}:  # a warm-up may begin with none
        raise UserError(
            f"{type(made).__name__} gives all groups of model.groups the same learning rate. Give it a list with one "
            f"for each of the {len(optimizer.param_groups)} groups (max_lr: [...]), those of no group first."
        )
    return made


def fill_lengths(scheduler: Any, length: Callable[[], int]) -> Any:
    """Fill in the lengths that YAML leaves null: the run's, or that of a part of a SequentialSchedule.

    Args:
        scheduler: Takes the optimizer.
        length: Returns how often the scheduler moves in the run; asked only where something needs it.

    Raises:
        UserError: If the milestones of a sequence do not rise within the run.
    """
    if not isinstance(scheduler, functools.partial):
        return scheduler
    given = dict(scheduler.keywords)
    if given.get("epochs") is None:  # OneCycleLR knows its length by it
        given |= {name: length() for name in LENGTHS if name in given and given[name] is None}
    if parts := given.get("schedulers"):
        ends = [round(end * length()) if end < 1 else int(end) for end in given["milestones"]]

        def span(begin: int, end: int | None) -> int:
            moves = (length() if end is None else end) - begin
            if moves < 1:
                raise UserError(
                    f"milestones {ends} do not rise within the {length()} moves of the run. Lower them, or give shares "
                    "below 1 (0.1); --model.scheduler_interval step moves at each step."
                )
            return moves

        bounds: Any = itertools.pairwise([0, *ends, None])
        given["milestones"] = ends
        given["schedulers"] = [
            fill_lengths(part, functools.partial(span, *each)) for part, each in zip(parts, bounds, strict=False)
        ]
    return functools.partial(scheduler.func, *scheduler.args, **given)


def run_length(trainer: Trainer, interval: str) -> int:
    """Return how often a scheduler moves in a run.

    Args:
        trainer: Of the run.
        interval: `step` or `epoch`.

    Raises:
        UserError: If nobody knows the end of the run beforehand.
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
        f"The length of a scheduler ({', '.join(LENGTHS)}) is null, but nobody knows how many {interval}s the run has: "
        f"max_epochs={trainer.max_epochs}, max_steps={trainer.max_steps}. Set {ways}; or give the scheduler a number."
    )


def plateau_options(scheduler: Any, interval: str, trainer: Trainer) -> dict[str, Any]:
    """Return what Lightning wants to know of a ReduceLROnPlateau.

    Raises:
        UserError: If it does not say what it watches, or looks more often than its metric is there.
    """
    monitor = getattr(scheduler, "monitor", None)
    if monitor is None:
        raise UserError(
            "torch's ReduceLROnPlateau does not say what it watches. Name lightning.pytorch.cli.ReduceLROnPlateau, "
            "with monitor: val/loss."
        )
    if interval == "step" and (monitor.startswith("val/") or monitor == "train/loss"):
        raise UserError(
            f"ReduceLROnPlateau watches {monitor}, which is not there at each step. "
            "Set --model.scheduler_interval epoch."
        )
    # Between two validations there is nothing new to see.
    every = trainer.check_val_every_n_epoch if monitor.startswith("val/") else None
    return {"monitor": monitor, "frequency": every or 1}
