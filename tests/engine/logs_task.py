"""A module that logs in each way that Lightning has, and its data: rows that two processes cannot share evenly."""

from typing import Any

import torch
from lightning.pytorch import Callback, LightningDataModule, LightningModule
from torch import nn
from torch.utils.data import DataLoader, TensorDataset
from torchmetrics import MeanAbsoluteError, MeanSquaredError, MetricCollection, R2Score

from src.module import LitModule


class Ways:
    """Logs in each way: mixed into a LightningModule with `net` and `make_metrics` called."""

    net: Any
    log: Any
    log_dict: Any
    trainer: Any

    def make_metrics(self) -> None:
        self.single = nn.ModuleDict({stage: MeanAbsoluteError() for stage in ("train_", "val_", "test_")})
        self.several = nn.ModuleDict(
            {
                f"{stage}_": MetricCollection({"mse": MeanSquaredError(), "r2": R2Score()}, prefix=f"{stage}/several_")
                for stage in ("train", "val", "test")
            }
        )

    def log_all(self, stage: str, batch: Any, batch_idx: int) -> torch.Tensor:
        x, target = batch
        guess = self.net(x)
        errors = (guess - target).square()
        loss = errors.mean()
        epoch = {"on_step": False, "on_epoch": True}
        self.log(f"{stage}/plain", loss, **epoch)
        self.log(f"{stage}/default", loss)
        self.log(f"{stage}/asked", loss, sync_dist=True, on_step=True, on_epoch=True)
        self.log_dict({f"{stage}/pair_a": loss, f"{stage}/pair_b": guess.mean()}, **epoch)
        self.log_dict({f"{stage}/sized": loss}, batch_size=len(x), on_step=True, on_epoch=True)
        self.log(f"{stage}/max", errors.max(), reduce_fx="max", **epoch)
        self.log(f"{stage}/min", errors.min(), reduce_fx=min, **epoch)
        self.log(f"{stage}/sum_both", errors.sum(), reduce_fx=sum, on_step=True, on_epoch=True)
        # Names that one process has alone, in an order of its own.
        for row, error in zip(x, errors, strict=True):
            self.log(f"{stage}/part_{int(row[0] > 0)}{int(row[1] > 0)}", error.mean(), batch_size=1, **epoch)
        if batch_idx == 0:
            self.log(f"{stage}/first", loss, **epoch)
            self.log(f"{stage}/first_max", errors.max(), reduce_fx="max", **epoch)
            self.log(f"{stage}/first_step", errors.sum(), reduce_fx="sum", on_step=True, on_epoch=False)
        if self.trainer.is_global_zero:
            self.log(f"{stage}/zero_alone", 1.0, rank_zero_only=True, **epoch)
        single, several = self.single[f"{stage}_"], self.several[f"{stage}_"]
        single(guess, target)  # type: ignore[operator]
        self.log(f"{stage}/single", single, **epoch)
        several.update(guess, target)  # type: ignore[operator, union-attr]
        self.log_dict(several, **epoch)
        return loss


class Plain(Ways, LightningModule):
    """Any LightningModule."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Linear(2, 1)
        self.make_metrics()

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        return self.log_all("train", batch, batch_idx)

    def on_before_optimizer_step(self, optimizer: Any) -> None:
        self.log("grad", self.net.weight.grad.norm())

    def on_train_epoch_start(self) -> None:
        self.log("started", float(self.trainer.current_epoch), reduce_fx="max")

    def on_train_epoch_end(self) -> None:
        self.log("train/weight", self.net.weight.sum())

    def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
        self.log_all("val", batch, batch_idx)

    def on_validation_epoch_end(self) -> None:
        self.log("val/weight", self.net.weight.sum())
        self.log_dict({"val/loss": self.trainer.callback_metrics.get("val/plain/dataloader_idx_0", torch.tensor(1.0))})

    def test_step(self, batch: Any, batch_idx: int) -> None:
        self.log_all("test", batch, batch_idx)

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.05)


class Lit(Ways, LitModule):
    """A LitModule that logs besides."""

    def __init__(self) -> None:
        super().__init__(nn.Linear(2, 1), nn.MSELoss(), lambda params: torch.optim.SGD(params, lr=0.05))
        self.make_metrics()

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        self.log_all("train", batch, batch_idx)
        return super().training_step(batch, batch_idx)

    def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> Any:
        self.log_all("val", batch, batch_idx)
        return super().validation_step(batch, batch_idx, dataloader_idx)

    def test_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> Any:
        self.log_all("test", batch, batch_idx)
        return super().test_step(batch, batch_idx, dataloader_idx)


class Logs(Callback):
    """Logs from outside of the module."""

    def on_train_batch_end(self, trainer: Any, module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        self.log("callback/rows", float(len(batch[0])), reduce_fx="sum", on_step=False, on_epoch=True)

    def on_train_epoch_end(self, trainer: Any, module: Any) -> None:
        self.log_dict({"callback/epoch": float(trainer.current_epoch)})

    def on_validation_epoch_end(self, trainer: Any, module: Any) -> None:
        self.log("val/callback", 2.0)


class Rows(LightningDataModule):
    """29 rows for training and 21 and 10 for validation; `batch_size` counts those of one process."""

    def __init__(self, batch_size: int = 8) -> None:
        super().__init__()
        self.batch_size = batch_size

    def _loader(self, seed: int, num_rows: int) -> Any:
        x = torch.randn(num_rows, 2, generator=torch.Generator().manual_seed(seed))
        return DataLoader(TensorDataset(x, x.prod(1, keepdim=True)), self.batch_size, shuffle=seed == 0)

    def train_dataloader(self) -> Any:
        return self._loader(0, 29)

    def val_dataloader(self) -> Any:
        return [self._loader(1, 21), self._loader(2, 10)]

    def test_dataloader(self) -> Any:
        return self._loader(3, 17)
