"""What `predict_step` returned, taken apart: a column for each name, with an entry for each sample."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from src.engine.data.batches import describe, fields_of
from src.engine.errors import UserError

# (B, ...), or B entries: tensors of different sizes, or plain values.
Column = Tensor | list[Any]


class Outputs:
    """Takes batches apart: tensors, tuples, lists, dicts, dataclasses and other objects with attributes, nested.

    A list and a tuple mean the same, by one rule. If each entry is, or holds, a tensor with B rows, they are parts, as
    in `return logits, features`. Else one with B entries holds an entry for each sample, as in a list of dicts. B
    tensors of one shape, all with B rows, could be either: then the batches before it decide, and without any the
    batch is refused. A dict of tensors is always parts, a list of dicts is always samples.
    """

    def __init__(self) -> None:
        self._holds_samples: dict[str, bool] = {}

    def columns(self, outputs: Any, *likely: int | None) -> dict[str, Column]:
        """The columns of a batch, on the CPU.

        Args:
            outputs: What `predict_step` returned.
            likely: Numbers of samples that the batch may have, the likeliest first.

        Raises:
            UserError: If no number of samples fits, or two parts have one name.
        """
        last = len(outputs) if isinstance(outputs, list) else None
        fitting = (n for n in (*likely, first_rows(outputs), last) if n is not None and _fits(outputs, n))
        if (num_samples := next(fitting, None)) is None:
            returned = describe(outputs, is_pair=False)
            raise UserError(
                f"predict_step returned {returned} for a batch of {likely[0]}: nobody knows which part belongs to "
                "which sample. Return tensors (B, ...) or lists of B entries, several of them in a dict."
            )
        return _unique(self._columns(outputs, num_samples, ""))

    def _columns(self, value: Any, num_samples: int, name: str) -> Iterator[tuple[str, Column]]:
        value = _simple(value)
        if isinstance(value, Tensor):
            value = value.detach().cpu()
            # Of the whole batch, as a mean loss is.
            yield name or "score", value if value.dim() else value.expand(num_samples)
        elif (parts := fields_of(value)) is not None:
            for key, part in parts.items():
                yield from self._columns(part, num_samples, _join(name, key))
        elif isinstance(value, list | tuple) and self._is_per_sample(value, num_samples, name):
            yield from by_sample(list(value), name).items()
        elif isinstance(value, list | tuple):
            for number, part in enumerate(value):
                yield from self._columns(part, num_samples, _join(name or "output", number))
        elif value is not None:
            yield name or "output", [_plain(value)] * num_samples

    def _is_per_sample(self, value: Any, num_samples: int, name: str) -> bool:
        if len(value) != num_samples:
            self._holds_samples[name] = False
        elif (
            first_rows(value) is None
            or not all(_fits(part, num_samples) for part in value)
            or all(fields_of(part) is not None for part in value)
        ):
            self._holds_samples[name] = True
        elif name not in self._holds_samples and num_samples > 1:
            tensors = [part for part in map(_simple, value) if isinstance(part, Tensor) and part.dim()]
            if len(tensors) > 1 and len({part.shape for part in tensors}) == 1:
                raise UserError(
                    f"predict_step returned {describe(value, is_pair=False)} for a batch of {num_samples}: these "
                    f"could be {num_samples} samples or {num_samples} parts. Return a dict of parts, or a list with a "
                    "dict for each sample."
                )
            return False
        return self._holds_samples.get(name, True)  # of one sample the numbers are the same


def by_sample(samples: list[Any], name: str = "") -> dict[str, Column]:
    """The columns of samples that stand one after the other.

    Raises:
        UserError: If they have different keys.
    """
    taken = [_unique(_entries(sample, name)) for sample in samples]
    for entries in taken:
        if entries.keys() != taken[0].keys():
            raise UserError(different_keys(taken[0], entries))
    return {key: _gather([entries[key] for entries in taken], key) for key in (taken[0] if taken else ())}


def different_keys(first: Any, other: Any) -> str:
    """In words."""
    return (
        f"predict: one sample has {', '.join(first) or 'no keys'}, another {', '.join(other) or 'no keys'}. Give each "
        "the same keys, with None where one has no value."
    )


def first_rows(value: Any) -> int | None:
    """The rows of the first tensor in it that has any."""
    value = _simple(value)
    if isinstance(value, Tensor):
        return len(value) if value.dim() else None
    parts = value if isinstance(value, list | tuple) else (fields_of(value) or {}).values()
    return next((rows for part in parts if (rows := first_rows(part)) is not None), None)


def _fits(value: Any, num_samples: int) -> bool:
    value = _simple(value)
    if isinstance(value, Tensor):
        return value.dim() == 0 or len(value) == num_samples
    if (parts := fields_of(value)) is not None:
        return all(_fits(part, num_samples) for part in parts.values())
    if not isinstance(value, list | tuple):
        return True
    return len(value) == num_samples or (
        first_rows(value) is not None and all(_fits(part, num_samples) for part in value)
    )


def _entries(value: Any, name: str) -> Iterator[tuple[str, Any]]:
    """The parts of one sample; its lists of numbers are vectors."""
    value = _simple(value)
    if isinstance(value, list | tuple) and all(isinstance(each, int | float) for each in value):
        value = torch.tensor(value)
    if isinstance(value, Tensor):
        yield name or "score", value.detach().cpu()
        return
    parts = fields_of(value)
    if parts is None and isinstance(value, list | tuple) and any(_plain(each) is not each for each in value):
        parts = dict(enumerate(value))
    if parts is None:
        yield name or "output", _plain(value)
        return
    for key, part in parts.items():
        yield from _entries(part, _join(name, key))


def _gather(values: list[Any], name: str) -> Column:
    tensors = [value for value in values if isinstance(value, Tensor)]
    if tensors and len(tensors) < len(values):
        other = next(value for value in values if not isinstance(value, Tensor))
        raise UserError(mixed(name, type(other).__name__))
    if tensors and len({(value.shape, value.dtype) for value in tensors}) == 1:
        return torch.stack(tensors)
    return values


def mixed(name: str, kind: str) -> str:
    """In words."""
    return f"predict: {name} is a tensor for one sample and {kind} for another. Give each sample one kind."


def _unique(pairs: Iterator[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in pairs:
        if name in found:
            raise UserError(f"predict: two parts of the output have the name {name}. Give one of them another.")
        found[name] = value
    return found


def _join(name: str, key: Any) -> str:
    return f"{name}_{key}" if name else str(key)


def _simple(value: Any) -> Any:
    """Arrays and nested tensors as what they hold."""
    if isinstance(value, np.ndarray):
        return torch.as_tensor(value) if value.dtype.kind in "biufc" else value.tolist()
    if isinstance(value, Tensor) and value.is_nested:
        return list(value.unbind())
    return value.to_dense() if isinstance(value, Tensor) and value.layout != torch.strided else value


def _plain(value: Any) -> Any:
    """What CSV shows in the same way: numbers and texts, and all else as text."""
    return value if value is None or type(value) in (str, int, float, bool) else str(value)
