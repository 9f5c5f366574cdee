"""Split rows into parts: at random, by a hash of each row, or by one of several folds."""

import hashlib
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from src.engine.errors import UserError


def hold_out(num_rows: int, val_size: int, seed: int) -> tuple[Tensor, Tensor]:
    """Draw the rows that train and the `val_size` ones that validate at random, by a seed; all int64.

    Raises:
        UserError: If a part would be empty.
    """
    if not 0 < val_size < num_rows:
        raise UserError(f"val_size={val_size} must be in 1..{num_rows - 1} (of {num_rows} rows). Set --data.val_size.")
    order = torch.randperm(num_rows, generator=torch.Generator().manual_seed(seed))
    return order[val_size:], order[:val_size]


def split_by_row(
    keys: Tensor | Sequence[Any],
    seed: int,
    fold: tuple[int, int] | None = None,
    *,
    val_share: float = 0.2,
    test_share: float = 0.2,
) -> tuple[Tensor, Tensor, Tensor]:
    """Split rows into three parts by a hash of each row, so that its part does not depend on the other rows.

    Rows may be added, removed and reordered: each stays in its part, so a later test of a checkpoint tests no row that
    trained. Equal rows are in one part. The sizes are near the shares, not exact.

    Args:
        keys: (N, ...) the rows themselves; or what identifies each, numbers (N,) or a list of strings. With the patient
            of each row, all rows of a patient are in one part.
        seed: Decides the parts.
        fold: Of the rows that are not for the test the k-th of n folds validates, and the others train.
        val_share: Of all rows; of no effect with `fold`.
        test_share: Of all rows.

    Returns:
        The rows that train, validate and test, int64.

    Raises:
        UserError: If there is no such fold, or a part is empty.
    """
    if isinstance(keys, Tensor):
        values = keys.detach().cpu().reshape(len(keys), -1).double() + 0.0  # -0.0 is 0.0
        texts = [row.tobytes() for row in values.numpy()]
    else:
        texts = [str(key).encode() for key in keys]
    hashes = [hashlib.blake2b(text, digest_size=8, key=str(seed).encode()).digest() for text in texts]
    # Numbers in [0, 1), whose float holds 53 bits.
    draws = torch.tensor([(int.from_bytes(each) >> 11) / 2**53 for each in hashes], dtype=torch.float64)
    first, last = test_share, test_share + val_share
    if fold:
        _check(fold)
        first, last = (test_share + (1 - test_share) * k / fold[1] for k in (fold[0], fold[0] + 1))
    test, val = draws < test_share, (first <= draws) & (draws < last)
    parts = {"train": ~(test | val), "validate": val, "test": test}
    if empty := [name for name, part in parts.items() if not part.any()]:
        raise UserError(
            f"A split of {len(draws)} rows leaves none to {' and none to '.join(empty)} (seed {seed}). Give more rows, "
            "fewer folds (--data.fold), or another seed (--data.split_seed)."
        )
    train, val, test = (part.nonzero().flatten() for part in parts.values())
    return train, val, test


def fold_of(
    rows: int | Tensor, fold: tuple[int, int], seed: int, *, stratify: Any = None, groups: Any = None
) -> tuple[Tensor, Tensor]:
    """Choose the rows that train and those that validate in one of several folds, by scikit-learn's splitters.

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
        UserError: If there is no such fold, or too few rows, rows of a class, or groups.
    """
    from sklearn import model_selection  # type: ignore[import-untyped]  # takes a second

    _check(fold)
    which, number = fold
    rows = torch.arange(rows) if isinstance(rows, int) else rows
    kind = f"{'Stratified' if stratify is not None else ''}{'Group' if groups is not None else ''}KFold"
    try:
        splitter = getattr(model_selection, kind)(number, shuffle=True, random_state=seed)
        train, val = list(splitter.split(rows, stratify, groups))[which]
    except ValueError as error:
        raise UserError(f"fold=[{which}, {number}]: {error} Take fewer: --data.fold, or repeat --folds.") from error
    return rows[train], rows[val]


def _check(fold: tuple[int, int]) -> None:
    which, number = fold
    if number < 2 or not 0 <= which < number:
        raise UserError(
            f"fold=[{which}, {number}] does not exist: [0, 5] is the first of five, [4, 5] the last. Set --data.fold."
        )
