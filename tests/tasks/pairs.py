"""Two views of each sample: neither is the target of the other."""

from pathlib import Path

import torch
from lightning.pytorch import LightningDataModule
from torch import nn
from torch.utils.data import DataLoader, Dataset

from src.module import LitModule, StepOutput


def write_data(folder: Path) -> None:
    torch.save(torch.randn(71, 5, generator=torch.Generator().manual_seed(8)), folder / "train.pt")
    torch.save(torch.randn(24, 5, generator=torch.Generator().manual_seed(9)), folder / "test.pt")


class Views(Dataset):
    def __init__(self, path, noise=0.3):
        self.rows, self.noise = torch.load(path), noise

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, index):
        x = self.rows[index]
        if not self.noise:
            return x, x.roll(1)
        return x + self.noise * torch.randn(5), x + self.noise * torch.randn(5)


class Data(LightningDataModule):
    def __init__(self, folder: str = ".", batch_size: int = 8):
        super().__init__()
        self.folder, self.batch_size = Path(folder), batch_size

    def train_dataloader(self):
        return DataLoader(Views(self.folder / "train.pt"), self.batch_size, shuffle=True, drop_last=True)

    def val_dataloader(self):
        return DataLoader(Views(self.folder / "train.pt", 0), self.batch_size)

    def test_dataloader(self):
        return DataLoader(Views(self.folder / "test.pt", 0), self.batch_size)

    predict_dataloader = test_dataloader


class Encoder(nn.Module):
    def __init__(self, width: int = 4):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(5, 8), nn.ReLU(), nn.Linear(8, width))

    def forward(self, x):
        return nn.functional.normalize(self.layers(x), dim=1)


class AlignmentModule(LitModule):
    """Pulls two views of a sample together and samples apart from a fixed point, a mean over the samples."""

    def step(self, batch):
        first, second = (self.net(view) for view in batch)
        align = (first - second).square().sum(1)
        spread = (first[:, 0] - 0.5).square()
        return StepOutput((align + spread).mean(), len(first), parts={"align": align.mean()})
