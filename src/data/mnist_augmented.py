"""MNIST with a random shift, turn and scale for each image: torchvision's own data set in an ordinary DataLoader."""

from typing import Any

import torch
from torch.utils.data import DataLoader, Subset
from torchvision.transforms import v2

from src.data.mnist import MEAN, STD, MNISTDataModule


class AugmentedMNISTDataModule(MNISTDataModule):
    """MNIST whose training images are changed at random; the others are left as they are.

    The engine makes what is drawn for an image a function of (seed, epoch, image): the same bits with any number of
    workers and processes, and after a resume within an epoch.

    Args:
        num_workers: Processes that prepare images, beside each training process; 0 for none.
        degrees: The largest turn, either way.
        translate: The largest shift, either way, as a part of the image's side.
        scale: The smallest and the largest factor of size.
        kwargs: Those of MNISTDataModule.
    """

    def __init__(
        self,
        num_workers: int = 2,
        degrees: float = 10.0,
        translate: float = 0.1,
        scale: tuple[float, float] = (0.9, 1.1),
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.num_workers = num_workers
        warp = v2.RandomAffine(degrees, (translate, translate), scale)
        self.transform = v2.Compose([warp, v2.ToImage(), v2.ToDtype(torch.float32, True), v2.Normalize([MEAN], [STD])])

    def train_dataloader(self) -> Any:
        images = self.source(self.root, transform=self.transform)
        rows = Subset(images, self.train_rows.tolist())
        return DataLoader(rows, self.batch_size, shuffle=True, num_workers=self.num_workers)
