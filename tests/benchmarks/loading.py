"""An ordinary DataLoader of images one by one, driven bare and through the engine."""

from typing import Any

import torch
from torch.utils.data import DataLoader, Subset
from torchvision.datasets import MNIST
from torchvision.transforms import Compose, Normalize, ToTensor

from src.engine.data.map_loader import MapLoader
from src.engine.data.order import Role
from tests.benchmarks.stopwatch import stopwatch

NUM_IMAGES = 20_000


def _loader(root: str, num_workers: int) -> DataLoader[Any]:
    images = MNIST(root, transform=Compose([ToTensor(), Normalize((0.1307,), (0.3081,))]))
    return DataLoader(Subset(images, range(NUM_IMAGES)), 128, shuffle=True, num_workers=num_workers)


def _drive(batches: Any) -> dict[str, Any]:
    result: dict[str, Any] = {}
    with stopwatch(result):
        result["images"] = sum(len(digits) for _, digits in batches)
    return result


def bare(root: str, seed: int, num_workers: int) -> dict[str, Any]:
    """As torch has it.

    Args:
        root: Folder of the data.
        seed: Of the order.
        num_workers: Of the loader.
    """
    torch.manual_seed(seed)
    return _drive(_loader(root, num_workers))


def adopted(root: str, seed: int, num_workers: int) -> dict[str, Any]:
    """As a run of the command line has it."""
    torch.manual_seed(seed)
    return _drive(MapLoader(_loader(root, num_workers), Role()))
