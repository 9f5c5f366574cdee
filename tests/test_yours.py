"""Your net and data without editing the project: from your package, and from YAML alone."""

import csv

import pytest
import torch
import yaml

from tests import stopping
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
  optimizer: {class_path: torch.optim.Adam, init_args: {lr: 0.02}}
data: {class_path: my_package.data.Sine}
trainer: {max_epochs: 40}
"""


@pytest.fixture
def outside(tmp_path):
    """Return a folder outside the project with a package and a YAML file."""
    package = tmp_path / "my_package"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "nets.py").write_text(NETS)
    (package / "data.py").write_text(DATA)
    (tmp_path / "sine.yaml").write_text(CONFIG)
    return tmp_path


def test_package_in_the_current_folder_trains_resumes_to_the_same_bits_and_predicts(outside):
    """As processes: only the current folder tells where the package is."""
    run = ("--ckpt_path", "runs/sine/version_1")
    fits = [("fit", "--config", "sine.yaml"), ("fit", "--config", "sine.yaml", "--trainer.max_epochs=20")]
    for command in (*fits, ("fit", *run, "--trainer.max_epochs=40"), ("test", *run), ("predict", *run)):
        done = run_process(*command, cwd=outside)
        assert done.returncode == 0, done.stderr
        if command[0] == "test":
            # Adam fits the sine to a few hundredths; a guess of 0 is off by 0.7.
            assert float(done.stdout.split("test/mae ")[1].split()[0]) < 0.2
    (file,) = outside.glob("runs/sine/*/predictions.csv")
    with file.open() as rows:
        assert len(list(csv.DictReader(rows))) == 64
    whole, resumed = (
        torch.load(outside / f"runs/sine/version_{number}/checkpoints/last.ckpt", weights_only=True)["state_dict"]
        for number in range(2)
    )
    assert stopping.differences(whole, resumed) == []


def test_other_parts_need_yaml_alone(cli, tmp_path):
    experiment = stopping.config()
    experiment["model"] |= {
        "net": {"class_path": "torchvision.ops.MLP", "init_args": {"in_channels": 4, "hidden_channels": [8, 1]}},
        "loss": {"class_path": "torch.nn.HuberLoss"},
        "metrics": {"r2": {"class_path": "torchmetrics.R2Score"}},
        "optimizer": {"class_path": "torch.optim.RMSprop", "init_args": {"lr": 0.005}},
        "scheduler": {"class_path": "torch.optim.lr_scheduler.StepLR", "init_args": {"step_size": 1, "gamma": 0.5}},
    }
    (tmp_path / "sums.yaml").write_text(yaml.safe_dump(experiment))
    done = cli("fit", "--config", "sums.yaml", "--test_after_fit=true")
    assert done.code == 0, done.err
    assert "test/r2" in done.metrics
    with (tmp_path / "runs/sums/version_0/metrics.csv").open() as file:
        rates = [float(row["lr"]) for row in csv.DictReader(file) if row["lr"]]
    assert rates[-1] <= 0.005 / 4
