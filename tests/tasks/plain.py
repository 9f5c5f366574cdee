"""A LightningModule as Lightning's manual writes it: its own steps, `self.log`, a metric object in training."""

from pathlib import Path

import lightning as L
import torch
from torch import nn
from torchmetrics import MeanMetric
from torchmetrics.classification import BinaryAccuracy

from tests.tasks import sites


def write_data(folder: Path) -> None:
    sites.write_data(folder)


class Data(sites.Data):
    def train_dataloader(self):
        return self.loader("train", True)

    def val_dataloader(self):
        return self.loader("day")

    def test_dataloader(self):
        return self.loader("night")

    predict_dataloader = test_dataloader


class Classifier(L.LightningModule):
    def __init__(self, lr: float = 0.05):
        super().__init__()
        self.lr = lr
        self.layers = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.2), nn.Linear(8, 1))
        self.train_acc, self.val_acc = BinaryAccuracy(), BinaryAccuracy()
        self.size = MeanMetric()

    def forward(self, x):
        return self.layers(x).squeeze(1)

    def training_step(self, batch, batch_idx):
        x, y = batch
        logits = self(x)
        loss = nn.functional.binary_cross_entropy_with_logits(logits, y.float())
        self.log("train_loss", loss, on_step=True, on_epoch=True)
        self.log("train_largest", logits.max(), on_step=False, on_epoch=True, reduce_fx="max")
        self.train_acc(logits.sigmoid(), y)
        self.log("train_acc", self.train_acc, on_step=False, on_epoch=True)
        return loss

    def validation_step(self, batch, batch_idx):
        x, y = batch
        logits = self(x)
        self.val_acc.update(logits.sigmoid(), y)
        self.log("val_loss", nn.functional.binary_cross_entropy_with_logits(logits, y.float()))
        self.log("val_acc", self.val_acc)

    def test_step(self, batch, batch_idx):
        x, y = batch
        self.log("test_loss", nn.functional.binary_cross_entropy_with_logits(self(x), y.float()))

    def predict_step(self, batch, batch_idx):
        logits = self(batch[0])
        return logits.sigmoid(), logits > 0

    def configure_optimizers(self):
        optimizer = torch.optim.Adam(self.parameters(), lr=self.lr)
        plateau = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, patience=0, threshold=0.5)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": plateau, "monitor": "val_loss"}}
