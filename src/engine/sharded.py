"""Sharded checkpoints (FSDP): a folder with a part from each process, read whole on any number of devices."""

import warnings
from pathlib import Path

import torch
from torch import Tensor


def load_shards(folder: Path) -> dict[str, Tensor]:
    """Put together the weights of a sharded checkpoint.

    Args:
        folder: The checkpoint.
    """
    from torch.distributed.checkpoint.filesystem import FileSystemReader  # these take a while to import
    from torch.distributed.checkpoint.metadata import TensorStorageMetadata
    from torch.distributed.checkpoint.state_dict_loader import load

    reader = FileSystemReader(folder)
    found = reader.read_metadata().state_dict_metadata
    weights = {
        name: torch.empty(value.size, dtype=value.properties.dtype)
        for name, value in found.items()
        if name.startswith("model.") and isinstance(value, TensorStorageMetadata)
    }
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "torch.distributed is disabled")  # each process reads all by itself
        load(weights, storage_reader=reader, no_dist=True)
    return {name.removeprefix("model."): value for name, value in weights.items()}
