"""A DataLoader over tensors in memory is an index operation a batch: the same bits, ten times as fast and more."""

from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Subset, TensorDataset, default_collate


def tensors_of(loader: DataLoader[Any]) -> tuple[Tensor, ...] | None:
    """The tensors whose rows are the loader's samples, as they are: a batch of them is one index operation.

    Args:
        loader: Over a TensorDataset, or a Subset of one, with torch's own collate function; of any other None.
    """
    if type(loader) is not DataLoader or loader.collate_fn is not default_collate or loader.batch_sampler is None:
        return None
    dataset, rows = loader.dataset, None
    while type(dataset) is Subset:
        chosen = torch.as_tensor(dataset.indices)
        rows = chosen if rows is None else chosen[rows]
        dataset = dataset.dataset
    if type(dataset) is not TensorDataset:
        return None
    return dataset.tensors if rows is None else tuple(tensor[rows] for tensor in dataset.tensors)
