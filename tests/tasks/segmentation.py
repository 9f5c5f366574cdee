"""Images of several sizes with a class per pixel, padding ignored; several validation and test sets."""

import torch
from lightning.pytorch import LightningDataModule
from torch import nn
from torch.nn.functional import pad
from torch.utils.data import DataLoader, Dataset

NO_CLASS = 255


class Images(Dataset):
    def __init__(self, number, flip):
        generator = torch.Generator().manual_seed(number)
        sizes = torch.randint(4, 9, (number, 2), generator=generator).tolist()
        self.images = [torch.rand(1, *size, generator=generator) for size in sizes]
        self.flip = flip

    def __len__(self):
        return len(self.images)

    def __getitem__(self, index):
        image = self.images[index]
        if self.flip and torch.rand(()) < 0.5:
            image = image.flip(2)
        return image, (image[0] > 0.5).long()


def collate(samples):
    height, width = (max(image.shape[side] for image, _ in samples) for side in (1, 2))

    def fill(image, value):
        return pad(image, (0, width - image.shape[-1], 0, height - image.shape[-2]), value=value)

    return torch.stack([fill(x, 0.0) for x, _ in samples]), torch.stack([fill(y, NO_CLASS) for _, y in samples])


class Data(LightningDataModule):
    def loader(self, number, flip=False, **options):
        return DataLoader(Images(number, flip), 4, collate_fn=collate, **options)

    def train_dataloader(self):
        return self.loader(40, flip=True, shuffle=True, num_workers=1)

    def val_dataloader(self):
        return {"day": self.loader(13), "night": self.loader(7)}

    test_dataloader = val_dataloader

    def predict_dataloader(self):
        return [*self.val_dataloader().values()]


class Net(nn.Sequential):
    def __init__(self):
        super().__init__(nn.Conv2d(1, 4, 1), nn.ReLU(), nn.Conv2d(4, 2, 1))
