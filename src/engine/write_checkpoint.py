"""Writes a checkpoint whole or not at all, and never one that could not be loaded again."""

import shutil
from pathlib import Path

from lightning.pytorch import Trainer
from torch.serialization import get_unsafe_globals_in_checkpoint

from src.engine.errors import UserError


def write_checkpoint(trainer: Trainer, target: Path) -> None:
    """Save beside the old one, then move into its place; all processes call it.

    Args:
        trainer: That is to be saved.
        target: A file; of a sharded checkpoint a folder.

    Raises:
        UserError: If the disk refuses it, or it would hold more than tensors and plain values.
    """
    part = target.with_name(f".{target.name}.part")
    try:
        trainer.save_checkpoint(part)
    except OSError as error:
        if part.is_file():
            part.unlink()
        kept = f"The one before is whole: {target}." if target.exists() else "There is none before it."
        raise UserError(f"Cannot write the checkpoint {target}: {error.strerror or error}. {kept}") from error
    if trainer.is_global_zero:
        _refuse_objects(part)
        old = target.with_name(f".{target.name}.old")
        if target.is_dir() or (part.is_dir() and target.exists()):  # a sharded one, which no rename replaces
            target.rename(old)
        part.replace(target)
        if old.exists():
            (shutil.rmtree if old.is_dir() else Path.unlink)(old)
    trainer.strategy.barrier("checkpoint")


def _refuse_objects(part: Path) -> None:
    """Notice now, not when it is needed, that a checkpoint holds what loading would refuse."""
    file = part / "meta.pt" if part.is_dir() else part
    if objects := get_unsafe_globals_in_checkpoint(file):
        (shutil.rmtree if part.is_dir() else Path.unlink)(part)
        raise UserError(
            f"The checkpoint would hold more than tensors and plain values: {', '.join(objects)}. Not saved. See what "
            "your modules, data modules, schedulers and callbacks put into it by state_dict() and on_save_checkpoint()."
        )
