"""Checkpoint files: find one, read it without running anything in it, write it whole or not at all."""

import sys
from contextlib import nullcontext
from pathlib import Path
from typing import Any
from zipfile import is_zipfile

import torch
from lightning.pytorch import Trainer

from src.engine.checkpoint.plain import unpack
from src.engine.errors import UserError
from src.engine.paths import at_home, pasted, write_whole
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
        UserError: If the file is not whole, is no checkpoint of this template, or holds any other object.
    """
    checkpoint = read_plain(Path(path), map_location)
    if not isinstance(checkpoint, dict) or "config" not in checkpoint:
        raise UserError(
            f"{path} is no checkpoint of this template: it holds no config. Name one that a fit wrote. To start from "
            f"weights of another training: --config YAML --transfer.weights {pasted(path)} in place of --ckpt_path."
        )
    unpacked: dict[str, Any] = unpack(checkpoint)
    return unpacked


def read_plain(path: Path, map_location: Any = "cpu") -> Any:
    """Read what torch or safetensors saved in a file, whoever did it.

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
    except ImportError as error:
        raise UserError(f"{path} needs a package that is not installed: pip install safetensors") from error
    except (FileNotFoundError, PermissionError) as error:
        raise UserError(f"{path} cannot be read: {error.strerror}.") from error
    except Exception as error:  # both libraries may stumble over foreign bytes in any way
        refused = [line.strip() for line in str(error).splitlines() if "GLOBAL" in line or "Unsupported class" in line]
        if refused:
            raise UserError(
                f"{path} is refused: it holds more than tensors and plain values, and loading it could run foreign "
                f"code. {refused[0]}"
            ) from error
        others = [str(other) for other in sorted(path.parent.glob("*.ckpt")) if other != path]
        beside = f" Beside it: {', '.join(others)}." if others else ""
        raise UserError(
            f"{path} ({path.stat().st_size:,} bytes) is no checkpoint, or only a part of one.{beside}"
        ) from error


def write_checkpoint(trainer: Trainer, target: Path) -> None:
    """Save beside the old file, then move the new one into its place; all processes call it together.

    Raises:
        UserError: If the disk refuses it.
    """
    try:
        with write_whole(target) if trainer.is_global_zero else nullcontext(target) as part:
            trainer.save_checkpoint(part)
    except OSError as error:
        kept = f"The one before is whole: {target}." if target.exists() else "There is none before it."
        raise UserError(f"Cannot write the checkpoint {target}: {error.strerror or error}. {kept}") from error
    trainer.strategy.barrier("checkpoint")
