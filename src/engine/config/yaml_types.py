"""Types that YAML has no word for: a tensor is written as its numbers, `weight: [1.0, 5.0, 16.0]`.

Registered for every parser of the process, by import.
"""

from contextlib import suppress
from typing import Any

import torch
from jsonargparse.typing import register_type
from torch import Tensor


def to_tensor(value: Any) -> Tensor:
    """Make a tensor of numbers in lists, as deep as they go.

    Args:
        value: The numbers; they become floating-point numbers of torch's default dtype, whole ones too, since weights
            are what such arguments are. Of another dtype `{dtype: int64, values: [0, 1]}`.

    Raises:
        ValueError: If it is anything else, or the lists within a list differ in length.
    """
    dtype: Any = torch.get_default_dtype()
    if isinstance(value, dict) and value.keys() == {"dtype", "values"}:
        dtype, value = getattr(torch, str(value["dtype"]), None), value["values"]
    elif isinstance(value, str):  # a number alone, from the command line
        with suppress(ValueError):
            value = float(value)
    kinds = (bool,) if dtype is torch.bool else (int, float)
    if not isinstance(dtype, torch.dtype) or not consists_of(kinds, value):
        raise ValueError(f"a tensor is written as its numbers, [1.0, 5.0]; got {value!r}")
    return torch.tensor(value, dtype=dtype)


def consists_of(kinds: tuple[type, ...], value: Any) -> bool:
    """Whether it is one of these types, or lists of them."""
    return all(consists_of(kinds, part) for part in value) if isinstance(value, list) else type(value) in kinds


def to_numbers(tensor: Tensor) -> Any:
    """The plain value that `to_tensor` makes this tensor of, to the bit."""
    tensor = tensor.detach().cpu()
    if tensor.dtype != torch.get_default_dtype():
        return {"dtype": str(tensor.dtype).removeprefix("torch."), "values": tensor.tolist()}
    return tensor.numpy().astype(str).astype(float).tolist()  # by way of text: 0.1, not 0.10000000149011612


register_type(Tensor, to_numbers, to_tensor, type_check=isinstance)
