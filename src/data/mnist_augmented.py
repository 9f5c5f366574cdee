"""MNIST with a random shift, turn and scale for each image: an ordinary DataLoader over an ordinary data set."""

from typing import Any

from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import v2

from src.data.mnist import MNISTDataModule, normalize


class AugmentedMNISTDataModule(MNISTDataModule):
    """MNIST whose training images are changed at random; the others are left as they are.

    The engine makes what is drawn for an image a function of (seed, epoch, image): the same bits with any number of
    workers and processes, and after a resume amid an epoch.

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
        self.transform = v2.RandomAffine(degrees, (translate, translate), scale)

    def train_dataloader(self) -> Any:
        images, digits = (values[self.train_rows] for values in self.images)
        dataset = Augmented(images, digits, self.transform)
        return DataLoader(dataset, self.batch_size, shuffle=True, num_workers=self.num_workers)


class Augmented(Dataset[tuple[Tensor, Tensor]]):
    """Images, each changed at random whenever it is asked for.

    Args:
        images: (N, 28, 28) uint8.
        digits: (N,) int64.
        transform: Takes and returns (1, 28, 28) uint8.
    """

    def __init__(self, images: Tensor, digits: Tensor, transform: v2.Transform) -> None:
        self.images = images
        self.digits = digits
        self.transform = transform

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        image: Tensor = self.transform(self.images[index].unsqueeze(0))
        return normalize(image)[0], self.digits[index]
