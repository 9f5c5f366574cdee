"""Checkpoint files: find one, read it without running its code, leave out what one cannot hold.

A checkpoint holds what `torch.load(path, weights_only=True)` reads: tensors, numbers, texts, and lists, tuples, dicts
and sets of these.
"""

import re
from pathlib import Path
from typing import Any
from zipfile import is_zipfile

import numpy as np
import torch
from lightning.pytorch import LightningDataModule, LightningModule
from lightning_utilities.core.apply_func import apply_to_collection
from torch import Tensor

from src.engine.errors import UserError
from src.engine.paths import at_home, pasted


def find_checkpoint(path: str | Path, option: str = "ckpt_path") -> Path:
    """Find the checkpoint that a path names: the file, or the `last.ckpt` of a run's folder.

    Args:
        path: What the user gave.
        option: By which option, for the message.

    Raises:
        UserError: If there is none.
    """
    given = at_home(path)
    for file in (given, given / "last.ckpt", given / "checkpoints" / "last.ckpt"):
        if file.is_file():
            return file
    problem = "is a folder without last.ckpt" if given.is_dir() else "does not exist"
    raise UserError(f"{option}={path} {problem}. Name a checkpoint file or a run's folder.")


def read_checkpoint(path: str | Path, map_location: Any = "cpu") -> dict[str, Any]:
    """Read a checkpoint of this template.

    Args:
        path: The file.
        map_location: Where its tensors go, as for `torch.load`. They are read from the disk when they are used.

    Raises:
        UserError: If the file is not whole, is no checkpoint of this template, or holds any other object.
    """
    checkpoint = read_plain(Path(path), map_location)
    if not isinstance(checkpoint, dict) or "config" not in checkpoint:
        raise UserError(
            f"{path} is no checkpoint of this template: it holds no config. Name one that a fit wrote. To start from "
            f"weights of another training: --config YAML --transfer.weights {pasted(path)} in place of --ckpt_path."
        )
    return checkpoint


def read_plain(path: Path, map_location: Any = "cpu") -> Any:
    """Read what torch or safetensors saved in a file, in any training.

    Args:
        path: The file.
        map_location: As for `torch.load`.

    Raises:
        UserError: If the file is not whole, or holds more than tensors and plain values.
    """
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path)
        # Files of torch before 1.6 are no ZIP files and cannot be mapped into memory.
        return torch.load(path, map_location=map_location, weights_only=True, mmap=is_zipfile(path))
    except (ImportError, PermissionError) as error:
        raise UserError(f"{path} cannot be read: {error}.") from error
    except Exception as error:  # foreign bytes make either library fail in any way
        if found := re.search(r"(?:GLOBAL|Unsupported class) (\S+)", str(error)):
            raise UserError(
                f"{path} is refused: it holds {found[1]}, which could run code. A checkpoint holds tensors, numbers, "
                "texts, and lists, tuples, dicts and sets of these. Let state_dict() and on_save_checkpoint() return "
                "such: torch.from_numpy(...), dict(...), str(...)."
            ) from error
        others = [str(other) for other in sorted(path.parent.glob("*.ckpt")) if other != path]
        beside = f" Beside it: {', '.join(others)}." if others else ""
        raise UserError(f"{path} is no checkpoint, or only a part of one.{beside}") from error


def pack_checkpoint(checkpoint: dict[str, Any]) -> None:
    """Leave out hyperparameters that a checkpoint cannot hold (a net): the config has them."""
    for owner in (LightningModule, LightningDataModule):
        checkpoint.pop(owner.CHECKPOINT_HYPER_PARAMS_TYPE, None)
        given = checkpoint.pop(owner.CHECKPOINT_HYPER_PARAMS_KEY, {}).items()
        checkpoint[owner.CHECKPOINT_HYPER_PARAMS_KEY] = {name: value for name, value in given if is_plain(value)}
    # A state_dict keeps its type, which has the versions of its modules.
    for name in checkpoint.keys() - {"state_dict"}:  # a schedule may compute numbers of NumPy
        checkpoint[name] = apply_to_collection(checkpoint[name], np.generic, np.generic.item, allow_frozen=True)


def is_plain(value: Any) -> bool:
    """Return whether a checkpoint can hold a value."""
    if isinstance(value, dict):
        return all(map(is_plain, [*value, *value.values()]))
    if isinstance(value, list | tuple | set):
        return all(map(is_plain, value))
    return value is None or isinstance(value, Tensor | int | float | complex | str | bytes | np.generic | torch.dtype)
