"""A new head on trained layers: rates by group, batch norm left as it was."""

from pathlib import Path

import torch
from torch import nn

from tests.tasks import sites


def write_data(folder: Path) -> None:
    sites.write_data(folder)
    torch.save(Net().state_dict(), folder / "pretrained.pth")


class Data(sites.Data):
    def val_dataloader(self):
        return self.loader("day")

    def test_dataloader(self):
        return self.loader("night")

    predict_dataloader = test_dataloader


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU())
        self.head = nn.Linear(8, 2)

    def forward(self, x):
        return self.head(self.body(x))
