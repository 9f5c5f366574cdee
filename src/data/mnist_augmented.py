"""MNIST with a random shift, turn and scale for each image: a DataLoader with workers that resumes exactly."""

import random
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor
from torch.utils.data import Dataset
from torchvision.transforms import v2

from src.data.mnist import MNISTDataModule, normalize
from src.data.streaming import EpochLoader, EpochSampler, leave_signals_to_the_run


class AugmentedMNISTDataModule(MNISTDataModule):
    """MNIST whose training images are changed at random; the others are left as they are.

    What happens to an image is a function of (seed, epoch, image) alone. So a run gives the same bits with any number
    of workers, and resumed amid an epoch: the images that were not used yet come next, each once. (With several
    processes whose number does not divide that of the images, the last few come twice.)

    Args:
        root: As for MNISTDataModule, like all up to `predict_path`.
        num_workers: Processes that prepare images, beside each training process; 0 for none.
        degrees: The largest turn, either way.
        translate: The largest shift, either way, as a part of the image's side.
        scale: The smallest and the largest factor of size.
    """

    def __init__(
        self,
        root: Path = Path("data"),
        dataset: Literal["MNIST", "FashionMNIST", "KMNIST"] = "MNIST",
        batch_size: int = 512,
        val_size: int = 5_000,
        split_seed: int = 42,
        mirror: str | None = None,
        predict_path: Path | None = None,
        num_workers: int = 2,
        degrees: float = 10.0,
        translate: float = 0.1,
        scale: tuple[float, float] = (0.9, 1.1),
    ) -> None:
        super().__init__(root, dataset, batch_size, val_size, split_seed, mirror, predict_path)
        self.num_workers = num_workers
        self.transform = v2.RandomAffine(degrees, (translate, translate), scale)

    def train_dataloader(self) -> Any:
        assert self.trainer is not None, "Lightning sets the trainer before it asks for a loader"
        if getattr(self.trainer, "overfit_batches", 0):
            return super().train_dataloader()  # the same few batches in each epoch, as they are
        images, digits = (values[self.train_rows].cpu() for values in self.images)
        dataset = Augmented(images, digits, self.transform, torch.initial_seed())
        sampler = EpochSampler(
            dataset,
            num_replicas=self.trainer.world_size,
            rank=self.trainer.global_rank,
            seed=dataset.seed % 2**32,
        )
        return EpochLoader(
            dataset,
            self.batch_size,
            sampler=sampler,
            num_workers=self.num_workers,
            worker_init_fn=leave_signals_to_the_run,
            pin_memory=self.trainer.strategy.root_device.type == "cuda",
            # Without one it would draw from the generator that dropout draws from.
            generator=torch.Generator(),
        )


class Augmented(Dataset[tuple[Tensor, Tensor]]):
    """Images, each changed by numbers drawn for (seed, epoch, image).

    Args:
        images: (N, 28, 28) uint8.
        digits: (N,) int64.
        transform: Takes and returns (1, 28, 28) uint8; draws from torch's generator.
        seed: A run's own.
    """

    def __init__(self, images: Tensor, digits: Tensor, transform: v2.Transform, seed: int) -> None:
        self.images = images
        self.digits = digits
        self.transform = transform
        self.seed = seed

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, place: tuple[int, int]) -> tuple[Tensor, Tensor]:
        epoch, index = place
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(random.Random(f"{self.seed}/{epoch}/{index}").getrandbits(32))
            image: Tensor = self.transform(self.images[index].unsqueeze(0))
        return normalize(image)[0], self.digits[index]
