"""Optimizers with options for groups of parameters, and learning-rate schedulers as long as the run."""

import functools
import itertools
import math
from collections.abc import Callable
from fnmatch import fnmatchcase
from typing import Any

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


class SequentialSchedule(lr_scheduler.SequentialLR):
    """Runs one scheduler after the other: torch's SequentialLR, whose parts YAML can name.

    Args:
        schedulers: In their order. A length of null is that of the part.
        milestones: Where the next one begins, in steps or epochs; a number below 1 is a share of the run.
    """

    def __init__(self, optimizer: Optimizer, schedulers: list[LRSchedulerCallable], milestones: list[float]) -> None:
        if len(milestones) != len(schedulers) - 1:
            raise UserError(f"{len(schedulers)} schedulers need {len(schedulers) - 1} milestones; got {milestones}.")
        parts: list[Any] = [make(optimizer) for make in schedulers]
        super().__init__(optimizer, parts, [int(milestone) for milestone in milestones])


def configure(module: Any) -> Any:
    """Return what `configure_optimizers` of a LitModule returns.

    Raises:
        UserError: If the options do not fit the optimizer, the scheduler or the run.
    """
    optimizer = build_optimizer(module.optimizer, module, module.groups)
    if module.scheduler is None:
        return optimizer
    schedule = build_scheduler(fill_lengths(module.scheduler, functools.partial(run_length, module)), optimizer)
    config = {"scheduler": schedule, "interval": module.scheduler_interval}
    if isinstance(schedule, lr_scheduler.ReduceLROnPlateau):
        monitor = getattr(schedule, "monitor", None)
        if monitor is None:
            name = "lightning.pytorch.cli.ReduceLROnPlateau"
            raise UserError(f"torch's ReduceLROnPlateau has no monitor. Name {name}, with monitor: val/loss.")
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
        A group for each set of given groups that match some parameter: none, [0], [0, 1], [1] ... in this order.

    Raises:
        UserError: If a group matches no parameter, or has an option that takes effect nowhere.
    """
    parameters = list(module.named_parameters(remove_duplicate=False))
    matching: dict[nn.Parameter, set[int]] = {parameter: set() for _, parameter in parameters}
    for number, group in enumerate(groups):
        patterns = group.get("names")
        if not isinstance(patterns, list):
            raise UserError(f'model.groups[{number}] needs a list `names`, of patterns such as "*.bias"; got {group}.')
        for pattern in map(str, patterns):
            found = [parameter for name, parameter in parameters if fnmatchcase(name, pattern)]
            if not found:
                some = ", ".join(name for name, _ in parameters[:4])
                raise UserError(f"model.groups[{number}]: no parameter is called {pattern}. They are called {some} ...")
            for parameter in found:
                matching[parameter].add(number)
    members: dict[tuple[int, ...], list[nn.Parameter]] = {}
    for parameter, matched in matching.items():
        members.setdefault(tuple(sorted(matched)), []).append(parameter)
    made, unused = [], {(number, option) for number, group in enumerate(groups) for option in group.keys() - {"names"}}
    for numbers in sorted(members):
        chosen: dict[str, tuple[int, str]] = {}
        for number in numbers:  # `lr` and `lr_scale` are one option
            own = [option for option in groups[number] if option != "names"]
            chosen |= {"lr" if option == "lr_scale" else option: (number, option) for option in own}
        unused -= set(chosen.values())
        made.append({"params": members[numbers]} | {option: groups[k][option] for k, option in chosen.values()})
    if unused:
        number, option = min(unused)
        raise UserError(
            f"model.groups[{number}]: {option} has no effect, because a later group or rate overrides it for all of "
            f"{groups[number]['names']}. Put the narrower group last."
        )
    return made


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
        length: Returns how often the scheduler moves; called only if needed.

    Raises:
        UserError: If the milestones of a sequence do not rise within the run.
    """
    if not isinstance(scheduler, functools.partial):
        return scheduler
    given = dict(scheduler.keywords)
    if given.get("epochs") is None:  # OneCycleLR knows its length by it
        given |= {name: length() for name in LENGTHS if name in given and given[name] is None}
    if "schedulers" in given:
        ends = given["milestones"] = [round(end * length()) if end < 1 else int(end) for end in given["milestones"]]

        def span(begin: int, end: int | None) -> int:
            moves = (length() if end is None else end) - begin
            if moves < 1:
                raise UserError(f"milestones {ends} do not rise within the {length()} moves of the run. Lower them.")
            return moves

        bounds: Any = itertools.pairwise([0, *ends, None])
        parts = zip(given["schedulers"], bounds, strict=False)
        given["schedulers"] = [fill_lengths(part, functools.partial(span, *each)) for part, each in parts]
    return functools.partial(scheduler.func, *scheduler.args, **given)


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
