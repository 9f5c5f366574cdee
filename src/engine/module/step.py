"""What a step gives."""

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from numbers import Integral
from typing import Any

import torch
from torch import Tensor

from src.engine.data.batches import count_samples, describe
from src.engine.errors import UserError

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
