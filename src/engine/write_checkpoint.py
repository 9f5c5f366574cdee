"""Writes a checkpoint whole or not at all."""

import shutil
from pathlib import Path

from lightning.pytorch import Trainer

from src.engine.errors import UserError


def write_checkpoint(trainer: Trainer, target: Path) -> None:
    """Save beside the old one, then move into its place; all processes call it.

    Args:
        trainer: That is to be saved.
        target: A file; of a sharded checkpoint a folder.

    Raises:
        UserError: If the disk refuses it.
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
        old = target.with_name(f".{target.name}.old")
        if target.is_dir() or (part.is_dir() and target.exists()):  # a sharded one, which no rename replaces
            target.rename(old)
        part.replace(target)
        if old.exists():
            (shutil.rmtree if old.is_dir() else Path.unlink)(old)
    trainer.strategy.barrier("checkpoint")
