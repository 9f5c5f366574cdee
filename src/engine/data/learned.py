"""What a data module learned from the data (a mean, a vocabulary) is there again before it sets up the data."""

import copy
from pathlib import Path

from lightning.pytorch import LightningDataModule

from src.engine.checkpoint.files import read_checkpoint


def restore_learned(datamodule: LightningDataModule, path: Path | None) -> None:
    """Hand a data module what its `state_dict` left in a checkpoint.

    Lightning does so as well, but when `setup` is over: too late for data that is scaled there.

    Args:
        datamodule: Just made.
        path: The checkpoint that the run starts from, if it does.
    """
    kind = type(datamodule)
    if path is None or kind.load_state_dict is LightningDataModule.load_state_dict:
        return
    checkpoint = read_checkpoint(path, weights=False)
    if kind.__qualname__ in checkpoint:  # the key is Lightning's
        # A copy: the file may be another one before its tensors are used.
        datamodule.load_state_dict(copy.deepcopy(checkpoint[kind.__qualname__]))
