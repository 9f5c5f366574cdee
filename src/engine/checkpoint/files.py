"""Checkpoint files: find one, read it without running anything in it, write it whole or not at all."""

import sys
from pathlib import Path
from typing import Any
from zipfile import is_zipfile

import torch
from lightning.pytorch import Trainer

from src.engine.checkpoint.plain import unpack
from src.engine.errors import UserError
from src.engine.paths import at_home, pasted
from src.engine.processes import is_rank_zero


def find_checkpoint(path: str | Path, option: str = "ckpt_path") -> Path:
    """Find the checkpoint that a path names: the file, or the last one of a run's folder or of its `checkpoints`.

    Args:
        path: What the user gave.
        option: By which option, for the message.

    Raises:
        UserError: If there is none.
    """
    if not str(path):
        raise UserError(f"{option} is empty. Name a checkpoint file or a run's folder.")
    if "://" in str(path):
        raise UserError(f"{option}={path} is an address. Download the file, and name it as a path.")
    path = at_home(path)
    if path.is_file():
        return path
    folder = path / "checkpoints" if (path / "checkpoints").is_dir() else path
    if (folder / "last.ckpt").exists():
        return folder / "last.ckpt"
    if (folder / "best.ckpt").exists():
        if is_rank_zero():
            print(f"{folder} has no last.ckpt: taking best.ckpt", file=sys.stderr, flush=True)
        return folder / "best.ckpt"
    problem = "is a folder without checkpoints" if path.is_dir() else "does not exist"
    raise UserError(f"{option}={path} {problem}. Name a checkpoint file or a run's folder.")


def read_checkpoint(path: str | Path, map_location: Any = "cpu") -> dict[str, Any]:
    """Read a checkpoint of this template.

    Args:
        path: The file.
        map_location: Where its tensors go, as for `torch.load`. They are read from the disk when they are used.

    Returns:
        Tensors, numbers, strings, lists and dicts; NumPy arrays and paths as they were.

    Raises:
        UserError: If the file is not whole, is no checkpoint of this template, or holds any other object. Names the
            newest whole one beside it.
    """
    path = Path(path)
    try:
        return _read(path, map_location)
    except UserError as error:
        beside = sorted(path.parent.glob("*.ckpt"), key=lambda file: file.stat().st_mtime, reverse=True)
        for other in (file for file in beside if file != path):
            try:
                step = _read(other, "cpu")["global_step"]
            except UserError:
                continue
            raise UserError(f"{error} The newest whole one beside it is {other} (step {step}).") from error
        raise


def _read(path: Path, map_location: Any) -> dict[str, Any]:
    checkpoint = {} if path.suffix == ".safetensors" else read_plain(path, map_location)
    if not isinstance(checkpoint, dict) or "config" not in checkpoint:
        raise UserError(
            f"{path} is no checkpoint of this template: it holds no config. Name one that a fit wrote. To start from "
            f"weights of another training: --config YAML --transfer.weights {pasted(path)} in place of --ckpt_path."
        )
    unpacked: dict[str, Any] = unpack(checkpoint)
    return unpacked


def read_plain(path: Path, map_location: Any = "cpu") -> Any:
    """Read what torch saved in a file, whoever did it.

    Args:
        path: The file.
        map_location: As for `torch.load`.

    Raises:
        UserError: If the file is not whole, or holds more than tensors and plain values.
    """
    try:
        # Files of torch before 1.6 are no ZIP files and cannot be mapped into memory.
        return torch.load(path, map_location=map_location, weights_only=True, mmap=is_zipfile(path))
    except (FileNotFoundError, PermissionError) as error:
        raise UserError(f"{path} cannot be read: {error.strerror}.") from error
    except Exception as error:  # torch.load may stumble over foreign bytes in any way
        refused = [line.strip() for line in str(error).splitlines() if "GLOBAL" in line or "Unsupported class" in line]
        if refused:
            raise UserError(
                f"{path} is refused: it holds more than tensors and plain values, and loading it could run foreign "
                f"code. {refused[0]}"
            ) from error
        raise UserError(f"{path} ({path.stat().st_size:,} bytes) is no checkpoint, or only a part of one.") from error


def write_checkpoint(trainer: Trainer, target: Path) -> None:
    """Save beside the old file, then move the new one into its place; all processes call it.

    Args:
        trainer: Whose state is saved.
        target: The file.

    Raises:
        UserError: If the disk refuses it.
    """
    part = target.with_name(f".{target.name}.part")
    try:
        trainer.save_checkpoint(part)
        if trainer.is_global_zero:
            part.replace(target)
    except OSError as error:
        part.unlink(missing_ok=True)
        kept = f"The one before is whole: {target}." if target.exists() else "There is none before it."
        raise UserError(f"Cannot write the checkpoint {target}: {error.strerror or error}. {kept}") from error
    trainer.strategy.barrier("checkpoint")
