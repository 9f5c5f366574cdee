"""What a step gives, and how a batch of the usual kinds is taken apart."""

import math
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from numbers import Integral
from typing import Any

import torch
from torch import Tensor

from src.engine.errors import UserError, describe

# By what names people call the target in a dict; `labels` is Hugging Face's.
TARGETS = ("labels", "label", "target", "targets", "y")
FORM = "StepOutput(loss, num_samples, outputs, target, parts={...})"


@dataclass
class StepOutput:
    """What a step computed on a batch.

    Attributes:
        loss: To be minimised: the mean over the batch, a number.
        num_samples: What it is a mean over: the number of samples, or a scalar tensor where it is another one in each
            batch and process: tokens that are no padding, the sum of class weights. Means over an epoch and over
            processes, and gradients of several processes, are weighted by it. A batch of 0 counts for nothing.
        outputs: What the net gave; metrics see `scores(outputs)`. May be None where no metrics are configured.
        target: What metrics compare the scores with.
        parts: Further means over the same samples, to be logged by their names: parts of the loss.

    Raises:
        UserError: If loss or a part is not a tensor of one number, or num_samples is not a count.
    """

    loss: Tensor
    num_samples: int | Tensor
    outputs: Any = None
    target: Any = None
    parts: dict[str, Tensor] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.loss = _mean("loss", self.loss)
        self.parts = {name: _mean(f"parts[{name!r}]", part) for name, part in self.parts.items()}
        if isinstance(self.num_samples, Integral):
            self.num_samples = int(self.num_samples)
        is_count = isinstance(self.num_samples, int) and self.num_samples >= 0
        if not is_count and not (isinstance(self.num_samples, Tensor) and self.num_samples.numel() == 1):
            got = describe(self.num_samples) if isinstance(self.num_samples, Tensor) else repr(self.num_samples)
            raise UserError(
                f"StepOutput: num_samples is {got}; it has to be an int or a tensor of one number: len(x), mask.sum()."
            )
        if isinstance(self.num_samples, Tensor):
            self.num_samples = self.num_samples.reshape(())


def _mean(name: str, value: Any) -> Tensor:
    if isinstance(value, Tensor) and value.numel() == 1:
        return value.reshape(())
    hint = " Take its mean over the batch." if isinstance(value, Tensor) else ""
    raise UserError(f"StepOutput: {name} is {describe(value)}; it has to be a tensor of one number.{hint}")


def as_output(value: Any, batch: Any) -> StepOutput:
    """Take what a step returned; a loss alone, also as `{"loss": loss}`, is a mean over the samples of the batch.

    Args:
        value: What the step returned.
        batch: What it was given.

    Raises:
        UserError: If it is anything else.
    """
    if isinstance(value, Mapping) and list(value) == ["loss"]:
        value = value["loss"]
    if isinstance(value, Tensor):
        return StepOutput(value, count_samples(batch))
    if isinstance(value, StepOutput):
        return value
    raise UserError(f"step returned {describe(value)}. Let it return the loss, {{'loss': loss}}, or {FORM}.")


def check_names(parts: Collection[str], metrics: Collection[str]) -> None:
    """See that each number that is logged has a name of its own.

    Raises:
        UserError: If a part of the loss has the name of the loss, of a metric, or of a metric's value for one class.
    """
    taken = [name for name in parts if name == "loss" or name.partition("/")[0] in metrics]
    if taken:
        raise UserError(
            f"StepOutput: parts has the name {taken[0]!r}, which is that of the loss or of a metric "
            f"({', '.join(['loss', *metrics])}). Give the part another name."
        )


def take_apart(batch: Any, needs_target: bool = True) -> tuple[Any, Any]:
    """What goes into the net, and the target.

    Args:
        batch: (x, target), x alone, (x,), or a dict with the net's keywords and the target.
        needs_target: Whether there has to be one.

    Returns:
        x, or the tensors of a dict without the target; the target, or None.

    Raises:
        UserError: If the batch does not say which part is which.
    """
    target, method = None, "step" if needs_target else "predict_step"
    if isinstance(batch, Mapping):
        names = [name for name in TARGETS if name in batch]
        if len(names) > 1:
            raise UserError(f"The batch has {' and '.join(names)}: which is the target? {advice(batch, method)}")
        inputs: Any = {k: v for k, v in batch.items() if isinstance(v, Tensor) and k not in names}
        target = batch[names[0]] if names else None
    elif isinstance(batch, tuple | list) and len(batch) <= 2:
        inputs, target = (*batch, None)[:2]
    elif isinstance(batch, tuple | list):
        raise UserError(f"The batch has {len(batch)} parts, only (x, target) explains itself. {advice(batch, method)}")
    else:
        inputs = batch
    if target is None and needs_target:
        raise UserError(f"The batch has no target for the loss. {advice(batch)}")
    return inputs, target


def advice(batch: Any, method: str = "step") -> str:
    """What came, and where to say what it means."""
    return f"It was {describe(batch)}. Say in LitModule.{method}() what a batch is (README, Your own step)."


def count_samples(batch: Any) -> int:
    """How many samples a batch holds: the length of its first tensor, or of its first list where there is none."""
    tensor = next((part for part in parts(batch) if isinstance(part, Tensor) and part.dim() > 0), None)
    if tensor is not None:
        return len(tensor)
    if isinstance(batch, Mapping):
        batch = next(iter(batch.values()), None)
    return len(batch) if isinstance(batch, tuple | list) else 1


def parts(batch: Any) -> Iterator[Any]:
    """Each leaf of nested tuples, lists, dicts and of objects that hold tensors."""
    if isinstance(batch, Mapping):
        batch = list(batch.values())
    elif not isinstance(batch, Tensor | tuple | list) and hasattr(batch, "__dict__"):
        batch = list(vars(batch).values())
    if isinstance(batch, tuple | list):
        for part in batch:
            yield from parts(part)
    else:
        yield batch


def loss_of(value: Any, num_samples: int | Tensor) -> dict[str, Any]:
    """A loss of any kind, as arguments of a StepOutput.

    Args:
        value: What a loss gave: a mean; (sum, weight); or a dict with `loss` and its parts, all of them means.
        num_samples: What it is a mean over, where it does not say.

    Raises:
        UserError: If it is none of these.
    """
    if isinstance(value, tuple) and len(value) == 2:
        weight = torch.as_tensor(value[1], device=value[0].device)
        return {"loss": value[0] / weight, "num_samples": weight}
    if isinstance(value, Mapping) and "loss" in value:
        return {"loss": value["loss"], "num_samples": num_samples} | {
            "parts": {name: part for name, part in value.items() if name != "loss"}
        }
    if isinstance(value, Tensor) and math.prod(value.shape) == 1:
        return {"loss": value.reshape(()), "num_samples": num_samples}
    raise UserError(
        f"The loss has to give one number, (sum, weight), or a dict with 'loss' and its parts; it gave "
        f"{describe(value)}."
    )
