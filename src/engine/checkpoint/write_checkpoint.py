"""Writes a checkpoint whole or not at all."""

import shutil
from pathlib import Path

from lightning.pytorch import Trainer

from src.engine.errors import UserError

ONE_FILE = "Set state_dict_type: full for FSDPStrategy, save_distributed_checkpoint: false for ModelParallelStrategy."


def write_checkpoint(trainer: Trainer, target: Path) -> None:
    """Save beside the old one, then move into its place; all processes call it.

    Args:
        trainer: That is to be saved.
        target: The file.

    Raises:
        UserError: If the disk refuses it, or the strategy writes a folder in place of a file.
    """
    part = target.with_name(f".{target.name}.part")
    try:
        trainer.save_checkpoint(part)
    except OSError as error:
        if part.is_file():
            part.unlink()
        kept = f"The one before is whole: {target}." if target.exists() else "There is none before it."
        raise UserError(f"Cannot write the checkpoint {target}: {error.strerror or error}. {kept}") from error
    if part.is_dir():
        trainer.strategy.barrier("checkpoint")
        shutil.rmtree(part, ignore_errors=True)
        raise UserError(
            f"{type(trainer.strategy).__name__} writes a checkpoint as a folder with a part for each process; here it "
            f"has to be one file. {ONE_FILE}"
        )
    if trainer.is_global_zero:
        part.replace(target)
    trainer.strategy.barrier("checkpoint")
