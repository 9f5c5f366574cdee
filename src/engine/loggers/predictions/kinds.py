"""What the entries of one name have in common: whether they fit into a table, and what room they need."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from src.engine.errors import UserError
from src.engine.loggers.predictions.outputs import Column, mixed

MAX_COLUMNS = 64  # numbers of one name that become columns of a table


@dataclass(frozen=True)
class Kind:
    """What the entries of one name have in common.

    Attributes:
        dtype: That holds all; None for plain values.
        shape: Of each sample; None where they differ.
        num_values: Of all samples together.
        num_dims: The most that a sample has.
    """

    dtype: torch.dtype | None = None
    shape: tuple[int, ...] | None = ()
    num_values: int = 0
    num_dims: int = 0

    @property
    def size(self) -> int:
        """The numbers of a sample, where all have as many; else 0."""
        return math.prod(self.shape) if self.shape is not None else 0

    @property
    def fits_columns(self) -> bool:
        """Whether the numbers of a sample stand in columns of a table."""
        return 1 <= self.size <= MAX_COLUMNS and self.dtype is not None and not self.dtype.is_complex

    def join(self, other: "Kind", name: str) -> "Kind":
        """Of the entries of both.

        Raises:
            UserError: If one is of tensors, the other of plain values.
        """
        if self.dtype is None or other.dtype is None:
            if self.dtype is not other.dtype:
                raise UserError(mixed(name, "a plain value"))
            return self
        dtypes = [kind.dtype for kind in (self, other) if kind.dtype and kind.num_values] or [self.dtype]
        return Kind(
            torch.promote_types(dtypes[0], dtypes[-1]),
            self.shape if self.shape == other.shape else None,
            self.num_values + other.num_values,
            max(self.num_dims, other.num_dims),
        )


def kind_of(column: Column, name: str) -> Kind:
    """Of a batch's entries."""
    if isinstance(column, Tensor):
        return Kind(column.dtype, tuple(column.shape[1:]), column.numel(), column.dim() - 1)
    if not isinstance(column[0], Tensor):
        return Kind()
    first, *rest = (kind_of(value.unsqueeze(0), name) for value in column)
    for kind in rest:
        first = first.join(kind, name)
    return first
