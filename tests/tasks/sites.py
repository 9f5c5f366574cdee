"""Several validation and test sets, each with its own metrics."""

from pathlib import Path

import torch
from lightning.pytorch import LightningDataModule
from torch.utils.data import DataLoader, TensorDataset


def write_data(folder: Path) -> None:
    generator = torch.Generator().manual_seed(10)
    for name, shift in (("train", 0.0), ("day", 0.2), ("night", 1.5)):
        x = torch.randn(37, 4, generator=generator)
        torch.save((x + shift, (x.sum(1) > 0).long()), folder / f"{name}.pt")


class Data(LightningDataModule):
    def __init__(self, folder: str = ".", batch_size: int = 5):
        super().__init__()
        self.folder, self.batch_size = Path(folder), batch_size

    def loader(self, name, shuffle=False):
        return DataLoader(TensorDataset(*torch.load(self.folder / f"{name}.pt")), self.batch_size, shuffle=shuffle)

    def train_dataloader(self):
        return self.loader("train", True)

    def val_dataloader(self):
        return {"day": self.loader("day"), "night": self.loader("night")}

    test_dataloader = val_dataloader

    def predict_dataloader(self):
        return [self.loader("day"), self.loader("night")]
