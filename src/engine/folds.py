"""Which rows train and which validate: a part held out, or one of several folds."""

from itertools import islice
from typing import Any

import torch
from torch import Tensor

from src.engine.errors import UserError


def hold_out(num_rows: int, val_size: int, seed: int) -> tuple[Tensor, Tensor]:
    """The rows of a training and of a validation part, drawn at random.

    Args:
        num_rows: N, how many there are.
        val_size: V, how many of them validate.
        seed: Decides which ones.

    Returns:
        (N - V,) and (V,) int64.

    Raises:
        UserError: If a part would be empty.
    """
    if not 0 < val_size < num_rows:
        raise UserError(f"val_size={val_size} must be in 1..{num_rows - 1} (of {num_rows} rows). Set --data.val_size.")
    order = torch.randperm(num_rows, generator=torch.Generator().manual_seed(seed))
    return order[val_size:], order[:val_size]


def fold_of(
    rows: int | Tensor, fold: tuple[int, int], seed: int, *, stratify: Any = None, groups: Any = None
) -> tuple[Tensor, Tensor]:
    """The rows that train and those that validate in one of several folds, by scikit-learn's splitters.

    Each row validates in one fold and trains in the others.

    Args:
        rows: (N,) int64, those to be split, or their number.
        fold: Which one, from 0, of how many: (0, 5) to (4, 5).
        seed: Decides the folds; the same in all of them.
        stratify: (N,) the class of each row: every fold has each class as often as the whole, as far as that goes.
        groups: (N,) what each row belongs to (a patient, a site): all rows of a group are in one fold.

    Returns:
        The rows that train and those that validate, int64.

    Raises:
        UserError: If there is no such fold, or there are too few rows, rows of a class, or groups.
    """
    from sklearn import model_selection  # type: ignore[import-untyped]  # takes a second

    which, number = fold
    if number < 2 or not 0 <= which < number:
        raise UserError(
            f"fold=[{which}, {number}] is none: [0, 5] is the first of five, [4, 5] the last. Set --data.fold."
        )
    rows = torch.arange(rows) if isinstance(rows, int) else rows
    kind = f"{'Stratified' if stratify is not None else ''}{'Group' if groups is not None else ''}KFold"
    splitter = getattr(model_selection, kind)(number, shuffle=True, random_state=seed)
    try:
        train, val = next(islice(splitter.split(rows, stratify, groups), which, None))
    except ValueError as error:
        raise UserError(f"fold=[{which}, {number}]: {error}") from error
    return rows[train], rows[val]
