"""Rows of a CSV file with class weights, scaled as the training rows."""

import csv
from pathlib import Path

import torch
from lightning.pytorch import LightningDataModule
from torch.utils.data import DataLoader, TensorDataset


def write_data(folder: Path) -> None:
    generator = torch.Generator().manual_seed(1)
    target = torch.multinomial(torch.tensor([0.7, 0.2, 0.1]), 90, True, generator=generator)
    x = 5 + 3 * torch.randn(90, 3, generator=generator) + target[:, None]
    for name, rows in (("train.csv", slice(0, 60)), ("test.csv", slice(60, 83))):
        with (folder / name).open("w", newline="") as file:
            csv.writer(file).writerows(
                [*row, k] for row, k in zip(x[rows].tolist(), target[rows].tolist(), strict=True)
            )


def read(path):
    with path.open() as file:
        rows = [[float(value) for value in row] for row in csv.reader(file)]
    table = torch.tensor(rows)
    return table[:, :-1], table[:, -1].long()


class Table(LightningDataModule):
    def __init__(self, folder: str = ".", batch_size: int = 8):
        super().__init__()
        self.folder = Path(folder)
        self.batch_size = batch_size
        self.mean = None

    def setup(self, stage):
        if stage == "fit":
            x, y = read(self.folder / "train.csv")
            if self.mean is None:
                self.mean, self.std = x[:45].mean(0), x[:45].std(0)
            self.train = TensorDataset((x[:45] - self.mean) / self.std, y[:45])
            self.val = TensorDataset((x[45:] - self.mean) / self.std, y[45:])
        else:
            x, y = read(self.folder / "test.csv")
            self.test = TensorDataset((x - self.mean) / self.std, y)

    def state_dict(self):
        return {"mean": self.mean, "std": self.std}

    def load_state_dict(self, state):
        self.mean, self.std = state["mean"], state["std"]

    def train_dataloader(self):
        return DataLoader(self.train, batch_size=self.batch_size, shuffle=True)

    def val_dataloader(self):
        return DataLoader(self.val, batch_size=self.batch_size)

    def test_dataloader(self):
        return DataLoader(self.test, batch_size=self.batch_size)

    predict_dataloader = test_dataloader
