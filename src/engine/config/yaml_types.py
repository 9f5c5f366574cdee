"""Tensors in YAML, as their numbers: `weight: [1.0, 5.0, 16.0]`. Registered for every parser of the process, by import.

Weights are what such arguments are, so numbers become floating point numbers of torch's default dtype.
"""

from typing import Any

import torch
from jsonargparse.typing import register_type
from torch import Tensor


def to_tensor(value: Any) -> Tensor:
    """Make a tensor of a number, or of numbers in lists, as deep as they go."""
    try:
        number = float(value) if isinstance(value, str) else value  # from the command line
        return torch.tensor(number, dtype=torch.get_default_dtype())
    except (ValueError, TypeError, RuntimeError) as error:
        raise ValueError(f"a tensor is written as its numbers, [1.0, 5.0]; got {value!r}") from error


def to_numbers(tensor: Tensor) -> Any:
    """Return the plain value that `to_tensor` makes this tensor of, to the bit.

    Raises:
        ValueError: If it has another dtype, which the numbers would lose.
    """
    if tensor.dtype != torch.get_default_dtype():
        raise ValueError(f"a tensor of {tensor.dtype} cannot be written in YAML")
    return tensor.detach().cpu().numpy().astype(str).astype(float).tolist()  # by way of text: 0.1, not 0.1000000015


register_type(Tensor, to_numbers, to_tensor, type_check=isinstance)
