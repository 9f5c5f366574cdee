"""Define what a step returns."""

from collections.abc import Mapping
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
    """Holds what a step computed on a batch.

    Attributes:
        loss: The mean over the batch, a number to be minimised. A loss may also give (sum, weight), which are then the
            mean and `num_samples`; or a dict of `loss` and its parts, which are then `parts`.
        num_samples: What the mean is over: the number of samples, or a scalar tensor where it differs between batches:
            tokens without padding, the sum of class weights. Means over an epoch and over processes, and gradients of
            several processes, are weighted by it. A batch of 0 counts for nothing.
        outputs: What the net gave; metrics see `scores(outputs)`. May be None where no metrics are configured.
        target: What metrics compare the scores with.
        parts: Further means over the same samples, logged by their names: parts of the loss.

    Raises:
        UserError: If loss or a part is not a tensor of one number, or num_samples is not a count.
    """

    loss: Any
    num_samples: int | Tensor
    outputs: Any = None
    target: Any = None
    parts: dict[str, Tensor] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if isinstance(self.loss, Mapping) and "loss" in self.loss:
            self.parts = {name: part for name, part in self.loss.items() if name != "loss"} | self.parts
            self.loss = self.loss["loss"]
        if isinstance(self.loss, tuple) and len(self.loss) == 2:
            total, weight = self.loss
            self.num_samples = torch.as_tensor(weight, device=total.device)
            self.loss = total / self.num_samples
        self.loss = _one_number("loss", self.loss)
        if self.parts:
            self.parts = {name: _one_number(f"parts[{name!r}]", part) for name, part in self.parts.items()}
        if isinstance(self.num_samples, Tensor):
            self.num_samples = _one_number("num_samples", self.num_samples)
        elif not isinstance(self.num_samples, Integral) or self.num_samples < 0:
            raise UserError(f"StepOutput: num_samples is {self.num_samples!r}; it has to be a count, such as len(x).")
        else:
            self.num_samples = int(self.num_samples)  # of NumPy's numbers, too


def _one_number(name: str, value: Any) -> Tensor:
    if isinstance(value, Tensor) and value.numel() == 1:
        return value.reshape(()) if value.dim() else value
    raise UserError(f"StepOutput: {name} is {describe(value)}; it has to be a tensor of one number.")


def as_output(value: Any, batch: Any) -> StepOutput:
    """Return what a step returned as a StepOutput; a loss alone is a mean over the samples of the batch.

    Args:
        value: A StepOutput, the loss, or a dict of `loss` and its parts.
        batch: What the step was given.

    Raises:
        UserError: If it is anything else.
    """
    if isinstance(value, StepOutput):
        return value
    if isinstance(value, Tensor) or (isinstance(value, Mapping) and "loss" in value):
        return StepOutput(value, count_samples(batch))
    raise UserError(f"step returned {describe(value)}. Let it return the loss, {{'loss': loss}}, or {FORM}.")
