"""Your net and data without editing the project: from your package."""

import csv

import torch

from tests.conftest import run_process

NETS = """
from torch import nn

class Wave(nn.Module):
    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(1, width), nn.Tanh(), nn.Linear(width, 1))

    def forward(self, x):
        return self.layers(x)
"""
DATA = """
import torch
from lightning.pytorch import LightningDataModule
from torch.utils.data import DataLoader, TensorDataset

class Sine(LightningDataModule):
    def __init__(self, batch_size: int = 16) -> None:
        super().__init__()
        self.batch_size = batch_size
        self.x = torch.linspace(-2, 2, 64).unsqueeze(1)

    def loader(self):
        return DataLoader(TensorDataset(self.x, self.x.sin()), batch_size=self.batch_size)

    train_dataloader = val_dataloader = test_dataloader = loader

    def predict_dataloader(self):
        return DataLoader(TensorDataset(self.x), batch_size=self.batch_size)
"""
CONFIG = """
model:
  net: {class_path: my_package.nets.Wave}
  loss: {class_path: torch.nn.MSELoss}
  metrics: {mae: {class_path: torchmetrics.MeanAbsoluteError}}
  optimizer: {class_path: torch.optim.Adam, init_args: {lr: 0.1}}
data: {class_path: my_package.data.Sine}
trainer: {max_epochs: 5}
"""


def test_a_package_in_the_current_folder_trains_resumes_and_predicts(tmp_path):
    """As processes: only the current folder tells where the package is."""
    package = tmp_path / "my_package"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "nets.py").write_text(NETS)
    (package / "data.py").write_text(DATA)
    (tmp_path / "sine.yaml").write_text(CONFIG)
    run = ("--ckpt_path", "runs/sine/version_0")
    for command in (("fit", "--config", "sine.yaml"), ("fit", *run, "--trainer.max_epochs=10"), ("predict", *run)):
        done = run_process(*command, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
    with (tmp_path / "runs/sine/version_1/predictions.csv").open() as file:
        scores = torch.tensor([float(row["score"]) for row in csv.DictReader(file)])
    # Adam fits the sine to a tenth; a guess of 0 is off by 0.7.
    assert (scores - torch.linspace(-2, 2, 64).sin()).abs().mean() < 0.2
