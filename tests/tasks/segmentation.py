"""Images of several sizes with a class per pixel; padding is ignored."""

from pathlib import Path

import torch
from lightning.pytorch import LightningDataModule
from torch import nn
from torch.nn.functional import pad
from torch.utils.data import DataLoader, Dataset

NO_CLASS = 255


def write_data(folder: Path) -> None:
    generator = torch.Generator().manual_seed(4)

    def images(number):
        sizes = torch.randint(4, 9, (number, 2), generator=generator).tolist()
        return [torch.rand(1, *size, generator=generator) for size in sizes]

    torch.save(images(40), folder / "train.pt")
    torch.save(images(13), folder / "test.pt")


class Images(Dataset):
    def __init__(self, path, flip=False):
        self.images, self.flip = torch.load(path), flip

    def __len__(self):
        return len(self.images)

    def __getitem__(self, index):
        image = self.images[index]
        if self.flip and torch.rand(()) < 0.5:
            image = image.flip(2)
        return image, (image[0] > 0.5).long()


def collate(samples):
    height = max(image.shape[1] for image, _ in samples)
    width = max(image.shape[2] for image, _ in samples)

    def fill(image, value):
        return pad(image, (0, width - image.shape[-1], 0, height - image.shape[-2]), value=value)

    return torch.stack([fill(x, 0.0) for x, _ in samples]), torch.stack([fill(y, NO_CLASS) for _, y in samples])


class Data(LightningDataModule):
    def __init__(self, folder: str = ".", batch_size: int = 4):
        super().__init__()
        self.folder, self.batch_size = Path(folder), batch_size

    def train_dataloader(self):
        images = Images(self.folder / "train.pt", flip=True)
        return DataLoader(images, self.batch_size, shuffle=True, collate_fn=collate, num_workers=1)

    def val_dataloader(self):
        return DataLoader(Images(self.folder / "train.pt"), self.batch_size, collate_fn=collate)

    def test_dataloader(self):
        return DataLoader(Images(self.folder / "test.pt"), self.batch_size, collate_fn=collate)

    predict_dataloader = test_dataloader


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Conv2d(1, 4, 1), nn.ReLU(), nn.Conv2d(4, 2, 1))

    def forward(self, x):
        return self.layers(x)
