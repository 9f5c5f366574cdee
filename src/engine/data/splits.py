"""Which rows train and which validate: a part held out, one of several folds, or what a hash of each row says.

All folds are checked when the first one is made, so that an empty one is known before any of them was trained.
"""

import functools
import hashlib
import sys
import warnings
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from src.engine.errors import UserError
from src.engine.processes import is_rank_zero

MOST_NAMED = 5  # classes in a note


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


def split_by_row(
    keys: Tensor | Sequence[Any],
    seed: int,
    fold: tuple[int, int] | None = None,
    *,
    val_share: float = 0.2,
    test_share: float = 0.2,
) -> tuple[Tensor, Tensor, Tensor]:
    """Split rows into three parts by a hash of each row, so that its part does not depend on the other rows.

    Rows may be added, removed and put into another order: each row that was there stays in its part, so a later test
    of a checkpoint tests no row that trained. Equal rows are in one part. The sizes are near the shares, not exact.

    Args:
        keys: (N, ...) the rows themselves; or what identifies each, which then may change its values: numbers (N,), or
            a list of strings. With the patient of each row, all rows of a patient are in one part.
        seed: Decides the parts.
        fold: Of the rows that are not for the test the k-th of n folds validates, and the others train.
        val_share: Of all rows; of no effect with `fold`.
        test_share: Of all rows.

    Returns:
        The rows that train, validate and test, int64.

    Raises:
        UserError: If there is no such fold, or a part is empty.
    """
    draws = torch.tensor([_draw(key, seed) for key in _bytes_of(keys)], dtype=torch.float64)
    test = draws < test_share
    if fold:
        which, number = _existing(fold)
        shares = (draws - test_share) / (1 - test_share)  # below 0: for the test
        folds = (shares * number).floor().long().clamp(max=number - 1)
        if empty := [k for k in range(number) if not (folds == k).any()]:
            raise _refused(fold, f"fold {empty[0]} would be empty: {_number(len(draws), 'row')}")
        val = folds == which
    else:
        val = (draws < test_share + val_share) & ~test
    parts = {"train": ~(test | val), "validate": val, "test": test}
    if none := [name for name, part in parts.items() if not part.any()]:
        raise UserError(
            f"A split of {_number(len(draws), 'row')} leaves none to {' and none to '.join(none)} (seed {seed}). "
            "Give more rows, or another seed (--data.split_seed)."
        )
    train, val, test = (part.nonzero().flatten() for part in parts.values())
    return train, val, test


def _bytes_of(keys: Tensor | Sequence[Any]) -> list[bytes]:
    if isinstance(keys, Tensor):
        values = keys.detach().cpu().reshape(len(keys), -1).double() + 0.0  # -0.0 is 0.0
        return [row.tobytes() for row in values.numpy()]
    return [str(key).encode() for key in keys]


def _draw(key: bytes, seed: int) -> float:
    """Return a number in [0, 1) that the key and the seed decide."""
    digest = hashlib.blake2b(key, digest_size=8, key=str(seed).encode()).digest()
    return (int.from_bytes(digest) >> 11) / 2**53  # all that a float holds


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
        UserError: If there is no such fold, or one of them would be empty: too few rows, rows of a class, or groups.
    """
    from sklearn import model_selection  # type: ignore[import-untyped]  # takes a second

    which, number = _existing(fold)
    rows = torch.arange(rows) if isinstance(rows, int) else rows
    _check(len(rows), fold, stratify, groups)
    kind = f"{'Stratified' if stratify is not None else ''}{'Group' if groups is not None else ''}KFold"
    splitter = getattr(model_selection, kind)(number, shuffle=True, random_state=seed)
    mine = rows, rows
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "The least populated class", UserWarning)  # see _check
            for k, (train, val) in enumerate(splitter.split(rows, stratify, groups)):
                if not len(train) or not len(val):
                    part = "training" if len(val) else "validation"
                    raise _refused(fold, f"fold {k} would have no {part} rows")
                mine = (rows[train], rows[val]) if k == which else mine
    except UserError:
        raise
    except ValueError as error:
        raise UserError(f"fold=[{which}, {number}]: {error}") from error
    return mine


def _existing(fold: tuple[int, int]) -> tuple[int, int]:
    which, number = fold
    if number < 2 or not 0 <= which < number:
        raise UserError(
            f"fold=[{which}, {number}] is none: [0, 5] is the first of five, [4, 5] the last. Set --data.fold."
        )
    return which, number


def _check(num_rows: int, fold: tuple[int, int], stratify: Any, groups: Any) -> None:
    """See that there are enough rows, groups and rows of a class; note classes that some folds go without."""
    import numpy as np

    which, number = fold
    for name, values in (("stratify", stratify), ("groups", groups)):
        if values is not None and len(values) != num_rows:
            raise UserError(f"fold=[{which}, {number}]: {name} has {len(values)} values for {num_rows} rows.")
    num_groups = num_rows if groups is None else len(np.unique(np.asarray(groups)))
    for what, there in (("row", num_rows), ("group", num_groups)):
        if there < number:
            raise _refused(fold, f"fold {there} would be empty: {_number(there, what)}")
    if stratify is None:
        return
    classes, counts = np.unique(np.asarray(stratify), return_counts=True)
    if counts.max() < number:
        raise _refused(
            fold, f"one would hold no row of any given class: the largest class has {_number(counts.max(), 'row')}"
        )
    rare = [f"class {classes[k]} has {_number(counts[k], 'row')}" for k in np.flatnonzero(counts < number)]
    if rare and which == 0:  # the first fold speaks for all
        more = f" and {len(rare) - MOST_NAMED} more classes" if len(rare) > MOST_NAMED else ""
        _note(f"{', '.join(rare[:MOST_NAMED])}{more}: too few for {number} folds, some validate without it")


def _number(count: int, what: str) -> str:
    return f"{count} {what}{'' if count == 1 else 's'}"


def _refused(fold: tuple[int, int], why: str) -> UserError:
    return UserError(
        f"fold=[{fold[0]}, {fold[1]}]: of {fold[1]} folds {why}. Take fewer: --data.fold, or repeat --folds."
    )


@functools.cache
def _note(text: str) -> None:
    """Say it once: `setup` makes the split again for the test, and for each fold."""
    if is_rank_zero():
        print(f"note: {text}", file=sys.stderr, flush=True)
