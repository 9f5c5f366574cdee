"""A GAN with manual optimization of two optimizers, in a plain LightningModule."""

from pathlib import Path

import lightning as L
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset


def write_data(folder: Path) -> None:
    for seed, (name, number) in enumerate((("train", 77), ("test", 17))):
        torch.save(torch.rand(number, 12, generator=torch.Generator().manual_seed(seed)), folder / f"{name}.pt")


class Data(L.LightningDataModule):
    def train_dataloader(self):
        return DataLoader(TensorDataset(torch.load("train.pt")), 8, shuffle=True)

    def val_dataloader(self):
        return []

    def test_dataloader(self):
        return DataLoader(TensorDataset(torch.load("test.pt")), 8)

    predict_dataloader = test_dataloader


class Gan(L.LightningModule):
    def __init__(self, latent: int = 3, lr: float = 0.01):
        super().__init__()
        self.save_hyperparameters()
        self.automatic_optimization = False
        self.generator = nn.Sequential(nn.Linear(latent, 8), nn.ReLU(), nn.Linear(8, 12))
        self.discriminator = nn.Sequential(nn.Linear(12, 8), nn.ReLU(), nn.Linear(8, 1))

    def forward(self, z):
        return self.generator(z)

    def adversarial_loss(self, logits, truth):
        return nn.functional.binary_cross_entropy_with_logits(logits, torch.full_like(logits, truth))

    def training_step(self, batch):
        (x,) = batch
        g, d = self.optimizers()
        fake = self(torch.randn(len(x), self.hparams.latent, device=self.device))
        self.toggle_optimizer(g)
        g_loss = self.adversarial_loss(self.discriminator(fake), 1.0)
        self.log("g_loss", g_loss, prog_bar=True, on_epoch=True)
        self.manual_backward(g_loss)
        g.step()
        g.zero_grad()
        self.untoggle_optimizer(g)

        self.toggle_optimizer(d)
        real_loss = self.adversarial_loss(self.discriminator(x), 1.0)
        fake_loss = self.adversarial_loss(self.discriminator(fake.detach()), 0.0)
        d_loss = (real_loss + fake_loss) / 2
        self.log("d_loss", d_loss, prog_bar=True)
        self.manual_backward(d_loss)
        d.step()
        d.zero_grad()
        self.untoggle_optimizer(d)

    def test_step(self, batch, batch_idx):
        self.log("test/real", self.discriminator(batch[0]).sigmoid().mean())

    def predict_step(self, batch, batch_idx):
        return {"real": self.discriminator(batch[0]).sigmoid().squeeze(1), "code": batch[0][:, :2]}

    def configure_optimizers(self):
        g = torch.optim.Adam(self.generator.parameters(), lr=self.hparams.lr)
        d = torch.optim.Adam(self.discriminator.parameters(), lr=self.hparams.lr)
        return [g, d], [torch.optim.lr_scheduler.StepLR(g, 1, 0.9)]
