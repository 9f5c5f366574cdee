"""Ordinary DataLoaders, driven bare and through the engine."""

from collections.abc import Callable
from typing import Any

import torch
from torch.utils.data import DataLoader, Subset, TensorDataset
from torchvision.datasets import MNIST
from torchvision.transforms import Compose, Normalize, ToTensor

from src.engine.data.loaders import MapLoader
from src.engine.data.order import Role
from tests.benchmarks.child import stopwatch

NUM_SAMPLES, PASSES = 20_000, 20


def _stack(samples: Any) -> Any:
    x, target = zip(*samples, strict=True)
    return torch.stack(x), torch.stack(target)


def adopted(**options: Any) -> dict[str, Any]:
    """Time the loader as a run drives it."""
    return drive(lambda loader: MapLoader(loader, Role()), **options)


def bare(**options: Any) -> dict[str, Any]:
    """Time the loader alone."""
    return drive(lambda loader: loader, **options)


def drive(
    adopt: Callable[[Any], Any], kind: str, root: str, seed: int, folder: str, num_workers: int = 0
) -> dict[str, Any]:
    """Time whole epochs of `images`, through PIL and transforms, or `tensors`, with a collate function."""
    torch.manual_seed(seed)
    if kind == "images":
        images = MNIST(root, transform=Compose([ToTensor(), Normalize((0.1307,), (0.3081,))]))
        loader: DataLoader[Any] = DataLoader(Subset(images, range(NUM_SAMPLES)), 128, True, num_workers=num_workers)
    else:
        data = TensorDataset(torch.randn(NUM_SAMPLES, 8), torch.arange(NUM_SAMPLES))
        loader = DataLoader(data, 128, True, num_workers=num_workers, collate_fn=_stack)
    batches = adopt(loader)
    result: dict[str, Any] = {}
    with stopwatch(result):
        for _ in range(1 if kind == "images" else PASSES):
            result["samples"] = sum(len(x) for x, _ in batches)
    return result
