"""A variational autoencoder: a step of its own, whose loss has two parts, and samples drawn in the net."""

from pathlib import Path

import torch
from lightning.pytorch import LightningDataModule
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from src.module import LitModule, StepOutput


def write_data(folder: Path) -> None:
    torch.save(torch.rand(77, 12, generator=torch.Generator().manual_seed(6)), folder / "train.pt")
    torch.save(torch.rand(17, 12, generator=torch.Generator().manual_seed(7)), folder / "test.pt")


class Data(LightningDataModule):
    def __init__(self, folder: str = ".", batch_size: int = 8):
        super().__init__()
        self.folder, self.batch_size = Path(folder), batch_size

    def loader(self, name, shuffle=False):
        return DataLoader(TensorDataset(torch.load(self.folder / name)), self.batch_size, shuffle=shuffle)

    def train_dataloader(self):
        return self.loader("train.pt", shuffle=True)

    def val_dataloader(self):
        return self.loader("train.pt")

    def test_dataloader(self):
        return self.loader("test.pt")

    predict_dataloader = test_dataloader


class Vae(nn.Module):
    def __init__(self, latent: int = 2):
        super().__init__()
        self.encoder, self.decoder = nn.Linear(12, 2 * latent), nn.Linear(latent, 12)

    def forward(self, x):
        mean, log_variance = self.encoder(x).chunk(2, dim=1)
        noise = torch.randn_like(mean) if self.training else 0
        return self.decoder(mean + (log_variance / 2).exp() * noise), mean, log_variance


class VaeModule(LitModule):
    def step(self, batch):
        (x,) = batch
        reconstruction, mean, log_variance = self.net(x)
        mse = self.loss(reconstruction, x)
        kl = -0.5 * (1 + log_variance - mean**2 - log_variance.exp()).sum(1).mean()
        return StepOutput(mse + 0.01 * kl, len(x), reconstruction, x, parts={"mse": mse, "kl": kl})
