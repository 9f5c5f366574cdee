"""Padded sequences with a value per step; padding is ignored."""

from pathlib import Path

import torch
from lightning.pytorch import LightningDataModule
from torch import nn
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import DataLoader, Dataset

from src.module import LitModule, StepOutput


def write_data(folder: Path) -> None:
    generator = torch.Generator().manual_seed(2)
    lengths = torch.randint(2, 9, (70,), generator=generator).tolist()
    torch.save([torch.randn(length, 2, generator=generator) for length in lengths], folder / "train.pt")
    torch.save([torch.randn(length, 2, generator=generator) for length in lengths[:21]], folder / "test.pt")


class Series(Dataset):
    def __init__(self, path):
        self.series = torch.load(path)

    def __len__(self):
        return len(self.series)

    def __getitem__(self, index):
        x = self.series[index]
        if len(x) > 2:
            x = x + 0.01 * torch.randn(1)
        return x, x.sum(1).cumsum(0)


def collate(samples):
    xs, targets = zip(*samples, strict=True)
    return {
        "x": pad_sequence(xs, batch_first=True),
        "lengths": torch.tensor([len(x) for x in xs]),
        "target": pad_sequence(targets, batch_first=True),
    }


class Plain(Series):
    def __getitem__(self, index):
        x = self.series[index]
        return x, x.sum(1).cumsum(0)


class Data(LightningDataModule):
    def __init__(self, folder: str = ".", batch_size: int = 5):
        super().__init__()
        self.folder, self.batch_size = Path(folder), batch_size

    def train_dataloader(self):
        return DataLoader(Series(self.folder / "train.pt"), self.batch_size, shuffle=True, collate_fn=collate)

    def val_dataloader(self):
        return DataLoader(Plain(self.folder / "train.pt"), self.batch_size, collate_fn=collate)

    def test_dataloader(self):
        return DataLoader(Plain(self.folder / "test.pt"), self.batch_size, collate_fn=collate)

    predict_dataloader = test_dataloader


class Net(nn.Module):
    def __init__(self, hidden: int = 8):
        super().__init__()
        self.rnn = nn.GRU(2, hidden, batch_first=True)
        self.head = nn.Linear(hidden, 1)

    def forward(self, x, lengths):
        return self.head(self.rnn(x)[0]).squeeze(-1)


class SequenceModule(LitModule):
    def step(self, batch):
        predicted = self.net(batch["x"], batch["lengths"])
        mask = torch.arange(predicted.shape[1], device=self.device) < batch["lengths"][:, None]
        predicted, target = predicted[mask], batch["target"][mask]
        return StepOutput(self.loss(predicted, target), mask.sum(), predicted, target)

    def predict_step(self, batch, batch_idx):
        predicted = self.net(batch["x"], batch["lengths"])
        return [row[:length] for row, length in zip(predicted, batch["lengths"].tolist(), strict=True)]
