"""A small XOR for the tests, which stays when the examples are removed."""

import torch
from lightning.pytorch import LightningDataModule
from torch import nn

from src.data.loader import TensorLoader

INPUTS = torch.tensor([[0.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 1.0]])
TARGETS = torch.tensor([[0.0], [1.0], [1.0], [0.0]])


class XorMLP(nn.Module):
    def __init__(self, hidden: int = 4) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(2, hidden), nn.ReLU(), nn.Linear(hidden, 1))

    def forward(self, x):
        return self.layers(x)


class XorDataModule(LightningDataModule):
    def __init__(self, batch_size: int = 4, passes: int = 250) -> None:
        super().__init__()
        self.batch_size = batch_size
        self.passes = passes

    def _loader(self, passes: int) -> TensorLoader:
        trainer = self.trainer
        tensors = tuple(tensor.to(trainer.strategy.root_device) for tensor in (INPUTS, TARGETS))
        return TensorLoader(tensors, self.batch_size, passes=passes)

    def train_dataloader(self) -> TensorLoader:
        return self._loader(self.passes)

    def val_dataloader(self) -> TensorLoader:
        return self._loader(passes=1)

    test_dataloader = predict_dataloader = val_dataloader
