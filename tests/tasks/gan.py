"""A GAN with manual optimization of two optimizers, in a plain LightningModule."""

import lightning as L
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset


def rows(number):
    return TensorDataset(torch.rand(number, 12, generator=torch.Generator().manual_seed(number)))


class Data(L.LightningDataModule):
    def train_dataloader(self):
        return DataLoader(rows(77), 8, shuffle=True)

    def val_dataloader(self):
        return []

    def test_dataloader(self):
        return DataLoader(rows(17), 8)

    predict_dataloader = test_dataloader


class Gan(L.LightningModule):
    def __init__(self, latent: int = 3, lr: float = 0.01):
        super().__init__()
        self.save_hyperparameters()
        self.automatic_optimization = False
        self.generator = nn.Sequential(nn.Linear(latent, 8), nn.ReLU(), nn.Linear(8, 12))
        self.discriminator = nn.Sequential(nn.Linear(12, 8), nn.ReLU(), nn.Linear(8, 1))

    def loss(self, x, truth):
        logits = self.discriminator(x)
        return nn.functional.binary_cross_entropy_with_logits(logits, torch.full_like(logits, truth))

    def move(self, optimizer, name, loss):
        self.log(name, loss, prog_bar=True, on_epoch=name == "g_loss")
        self.manual_backward(loss)
        optimizer.step()
        optimizer.zero_grad()
        self.untoggle_optimizer(optimizer)

    def training_step(self, batch):
        g, d = self.optimizers()
        fake = self.generator(torch.randn(len(batch[0]), self.hparams.latent, device=self.device))
        self.toggle_optimizer(g)
        self.move(g, "g_loss", self.loss(fake, 1.0))
        self.toggle_optimizer(d)
        self.move(d, "d_loss", (self.loss(batch[0], 1.0) + self.loss(fake.detach(), 0.0)) / 2)

    def test_step(self, batch, batch_idx):
        self.log("test/real", self.discriminator(batch[0]).sigmoid().mean())

    def predict_step(self, batch, batch_idx):
        return {"real": self.discriminator(batch[0]).sigmoid().squeeze(1), "code": batch[0][:, :2]}

    def configure_optimizers(self):
        g, d = (torch.optim.Adam(net.parameters(), self.hparams.lr) for net in (self.generator, self.discriminator))
        return [g, d], [torch.optim.lr_scheduler.StepLR(g, 1, 0.9)]
