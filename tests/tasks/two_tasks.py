"""Two tasks with loaders of different lengths, in a plain module that works in hooks."""

import copy
from pathlib import Path

import lightning as L
import torch
from lightning.pytorch.utilities import CombinedLoader
from torch import nn
from torch.utils.data import DataLoader, TensorDataset


def write_data(folder: Path) -> None:
    generator = torch.Generator().manual_seed(6)
    for name, length in (("train_values", 50), ("train_classes", 22), ("test", 21)):
        torch.save(torch.randn(length, 4, generator=generator), folder / f"{name}.pt")


class Data(L.LightningDataModule):
    def loader(self, name, shuffle=False):
        x = torch.load(f"{name}.pt")
        target = (x[:, 0] > 0).long() if name.endswith("classes") else x.sum(1, keepdim=True)
        return DataLoader(TensorDataset(x, target), 8, shuffle)

    def train_dataloader(self):
        return CombinedLoader(
            {name: self.loader(f"train_{name}", True) for name in ("values", "classes")}, "max_size_cycle"
        )

    def test_dataloader(self):
        return self.loader("test")

    predict_dataloader = test_dataloader


class TwoTasks(L.LightningModule):
    def __init__(self):
        super().__init__()
        self.body, self.value, self.kind = nn.Linear(4, 8), nn.Linear(8, 1), nn.Linear(8, 2)
        self.slow = copy.deepcopy(self.body).requires_grad_(False)

    def training_step(self, batch):
        (x, value), (y, kind) = batch["values"], batch["classes"]
        mse = nn.functional.mse_loss(self.value(self.body(x).relu()), value)
        ce = nn.functional.cross_entropy(self.kind(self.body(y).relu()), kind)
        self.log_dict({"train/mse": mse, "train/ce": ce}, on_step=False, on_epoch=True)
        return mse + ce

    def on_train_batch_end(self, outputs, batch, batch_idx):
        for slow, fast in zip(self.slow.parameters(), self.body.parameters(), strict=True):
            slow.lerp_(fast.detach(), 0.1)

    def test_step(self, batch, batch_idx):
        self.log_dict({"test/mse": nn.functional.mse_loss(self(batch), batch[1])})

    def forward(self, batch):
        return self.value(self.slow(batch[0]).relu())

    def configure_optimizers(self):
        return torch.optim.SGD([each for each in self.parameters() if each.requires_grad], 0.05)
