"""MNIST as templates write it: a transform for each sample in a DataLoader, a metric in each training step.

Batch size 128 and no workers are what the most used Lightning template ships with; net, loss, optimizer, schedule,
split and number of epochs are those of configs/mnist.yaml.
"""

import time
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn
from torch.optim.lr_scheduler import OneCycleLR
from torch.utils.data import DataLoader, random_split
from torchmetrics import MeanMetric
from torchmetrics.classification import MulticlassAccuracy
from torchvision.datasets import MNIST
from torchvision.transforms import Compose, Normalize, ToTensor

from src.models.mnist import MnistMLP
from tests.benchmarks.child import experiment, stopwatch

BATCH_SIZE = 128
CONFIG = experiment()


class UsualModule(LightningModule):
    """Loss and accuracy of each step go into metric objects, and those into `self.log`."""

    def __init__(self) -> None:
        super().__init__()
        self.net = MnistMLP()
        self.criterion = nn.CrossEntropyLoss(**CONFIG["model"]["loss"].get("init_args", {}))
        self.train_acc = MulticlassAccuracy(num_classes=10, average="micro")
        self.val_acc = MulticlassAccuracy(num_classes=10, average="micro")
        self.test_acc = MulticlassAccuracy(num_classes=10, average="micro")
        self.train_loss = MeanMetric()
        self.val_loss = MeanMetric()

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        """Log the running means and show them in the bar."""
        x, target = batch
        logits = self.net(x)
        loss: Tensor = self.criterion(logits, target)
        self.train_loss(loss)
        self.train_acc(logits.argmax(dim=1), target)
        self.log("train/loss", self.train_loss, on_step=False, on_epoch=True, prog_bar=True)
        self.log("train/acc", self.train_acc, on_step=False, on_epoch=True, prog_bar=True)
        return loss

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        """The same of a validation batch."""
        x, target = batch
        logits = self.net(x)
        self.val_loss(self.criterion(logits, target))
        self.val_acc(logits.argmax(dim=1), target)
        self.log("val/loss", self.val_loss, on_step=False, on_epoch=True, prog_bar=True)
        self.log("val/acc", self.val_acc, on_step=False, on_epoch=True, prog_bar=True)

    def test_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        """Accuracy alone."""
        x, target = batch
        self.test_acc(self.net(x).argmax(dim=1), target)
        self.log("test/acc", self.test_acc)

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """Those of the config."""
        model = CONFIG["model"]
        optimizer = torch.optim.AdamW(self.parameters(), **model["optimizer"]["init_args"])
        steps = int(self.trainer.estimated_stepping_batches)
        scheduler = OneCycleLR(optimizer, **{**model["scheduler"]["init_args"], "total_steps": steps})
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}


def mnist(root: str, seed: int, folder: str, epochs: int = 1) -> dict[str, Any]:
    """Fit.

    Args:
        root: Folder of the data.
        seed: Of weights, order and split.
        folder: Where logs and checkpoints go.
        epochs: How many are run. The time of fewer than the config's is scaled up; what comes before the first epoch is
            then left out, to this pipeline's favour.

    Returns:
        `seconds` of the config's number of epochs, `measured_epochs`, and `test_acc` after those.
    """
    wanted = CONFIG["trainer"]["max_epochs"]
    result: dict[str, Any] = {"measured_epochs": epochs}
    torch.manual_seed(seed)
    with stopwatch(result):
        transform = Compose([ToTensor(), Normalize((0.1307,), (0.3081,))])
        data = MNIST(root, train=True, transform=transform)
        train, val = random_split(data, [55_000, 5_000], generator=torch.Generator().manual_seed(42))
        trainer = Trainer(
            max_epochs=epochs,
            default_root_dir=folder,
            logger=CSVLogger(folder),
            callbacks=[ModelCheckpoint(monitor="val/acc", mode="max", save_last=True)],
        )
        model = UsualModule()
        start_s = time.perf_counter()
        trainer.fit(model, DataLoader(train, BATCH_SIZE, shuffle=True), DataLoader(val, BATCH_SIZE))
        fit_s = time.perf_counter() - start_s
    if epochs < wanted:
        result["seconds"] = fit_s / epochs * wanted
    test = DataLoader(MNIST(root, train=False, transform=transform), BATCH_SIZE)
    return result | {"test_acc": float(trainer.test(model, test, verbose=False)[0]["test/acc"])}
