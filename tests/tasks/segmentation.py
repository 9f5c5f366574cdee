"""Images of several sizes with a class per pixel, padding ignored; several validation and test sets."""

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
    torch.save(images(13), folder / "day.pt")
    torch.save(images(7), folder / "night.pt")


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
    def loader(self, name, flip=False, **options):
        return DataLoader(Images(f"{name}.pt", flip), 4, collate_fn=collate, **options)

    def train_dataloader(self):
        return self.loader("train", flip=True, shuffle=True, num_workers=1)

    def val_dataloader(self):
        return {"day": self.loader("day"), "night": self.loader("night")}

    test_dataloader = val_dataloader

    def predict_dataloader(self):
        return [*self.val_dataloader().values()]


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Conv2d(1, 4, 1), nn.ReLU(), nn.Conv2d(4, 2, 1))

    def forward(self, x):
        return self.layers(x)
