"""Take batches of any kind apart: input and target, the number of samples, a description."""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from torch import Tensor

from src.engine.errors import UserError

# Names of the target in a dict; `labels` is Hugging Face's.
TARGETS = ("labels", "label", "target", "targets", "y")


def take_apart(batch: Any, needs_target: bool = True) -> tuple[Any, Any]:
    """Split a batch into what goes into the net, and the target.

    Args:
        batch: (x, target), x alone, (x,), or a dict with the net's keywords and the target.
        needs_target: Whether there has to be one.

    Returns:
        x, or the tensors of a dict without the target; the target, or None.

    Raises:
        UserError: If the batch does not say which part is which.
    """
    inputs, target, method = batch, None, "step" if needs_target else "predict_step"
    if isinstance(batch, Mapping):
        names = [name for name in TARGETS if name in batch]
        if len(names) > 1:
            raise UserError(f"The batch has {' and '.join(names)}: which is the target? {advice(batch, method)}")
        inputs = {k: v for k, v in batch.items() if isinstance(v, Tensor) and k not in names}
        target = batch[names[0]] if names else None
    elif isinstance(batch, tuple | list):
        if len(batch) > 2:
            raise UserError(f"The batch has {len(batch)} parts, not (x, target). {advice(batch, method)}")
        inputs, target = (*batch, None)[:2]
    if target is None and needs_target:
        raise UserError(f"The batch has no target for the loss. {advice(batch)}")
    return inputs, target


def advice(batch: Any, method: str = "step") -> str:
    """Say what came, and where to explain it."""
    return f"It was {describe(batch)}. Say in LitModule.{method}() what a batch is (README, Use your own step)."


def count_samples(batch: Any) -> int:
    """Count the samples of a batch: the length of its first tensor, or without one of its first list."""
    for part in parts(batch):
        if isinstance(part, Tensor) and part.dim():
            return len(part)
    if isinstance(batch, Mapping):
        batch = next(iter(batch.values()), None)
    return len(batch) if isinstance(batch, tuple | list) else 1


def parts(batch: Any) -> Iterator[Any]:
    """Yield each leaf of nested tuples, lists, dicts and of objects that hold tensors."""
    if isinstance(batch, Mapping):
        batch = list(batch.values())
    elif not isinstance(batch, Tensor | tuple | list) and hasattr(batch, "__dict__"):
        batch = list(vars(batch).values())
    if isinstance(batch, tuple | list):
        for part in batch:
            yield from parts(part)
    else:
        yield batch


def fields_of(value: Any) -> dict[Any, Any] | None:
    """Return the parts of a mapping, a dataclass, a named tuple or an object with public attributes, else None."""
    if isinstance(value, Mapping):
        return dict(value)
    if callable(value) or isinstance(value, Tensor):
        return None
    if names := getattr(value, "__match_args__", ()):  # of a dataclass or a named tuple
        return {name: getattr(value, name) for name in names}
    return {key: part for key, part in getattr(value, "__dict__", {}).items() if not key.startswith("_")} or None


def describe(batch: Any, is_pair: bool = True) -> str:
    """Describe a batch, or what a step returned: "x (512, 1, 28, 28) float32, target (512,) int64".

    Args:
        batch: Parts of a part stand in brackets; parts that are all alike are counted.
        is_pair: Whether two entries are x and target.
    """
    if isinstance(batch, Tensor | np.ndarray):
        return f"{tuple(batch.shape)} {str(batch.dtype).removeprefix('torch.')}"
    if fields := fields_of(batch):
        return ", ".join(f"{name} {_inside(value)}" for name, value in fields.items())
    if not isinstance(batch, tuple | list) or not batch:
        return type(batch).__name__
    said = [_inside(value) for value in batch]
    if is_pair and len(said) == 2 and any(isinstance(value, Tensor) for value in batch):
        return f"x {said[0]}, target {said[1]}"
    return f"{len(said)} x {said[0]}" if len(said) > 2 and len(set(said)) == 1 else ", ".join(said)


def _inside(value: Any) -> str:
    text = describe(value, is_pair=False)
    return f"[{text}]" if isinstance(value, tuple | list) or fields_of(value) else text
