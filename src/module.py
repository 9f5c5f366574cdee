"""The LightningModule: a net, a loss, metrics and an optimizer, each named in YAML."""

import functools
from collections import defaultdict
from pathlib import Path
from typing import Any, Literal, Self

import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable, ReduceLROnPlateau
from torch import Tensor, nn
from torchmetrics import Metric, MetricCollection

from src.checkpoint import check_fit, load_module


class LitModule(LightningModule):
    """Trains a net on batches of (x, target).

    Logs the mean loss of each epoch and stage, and the metrics of validation and test: `train/loss`, `val/acc`.
    A training step costs what a hand-written one does: no metric object, no `self.log`, no wait for the device.

    Args:
        net: Takes x, returns logits (or values, for a regression); a plain module.
        loss: Takes (logits, target), returns the mean over the batch.
        optimizer: Takes the parameters, returns their optimizer.
        metrics: By name. Each takes (scores, target), see `scores`.
        scheduler: Takes the optimizer, returns its learning-rate scheduler. `total_steps: null` becomes the number of
            steps of the run, whatever its epochs, batches and devices.
        scheduler_interval: When the scheduler moves on.
        compile: Compile the net with torch.compile; on CUDA with CUDA graphs.
    """

    def __init__(
        self,
        net: nn.Module,
        loss: nn.Module,
        optimizer: OptimizerCallable,
        metrics: dict[str, Metric] | None = None,
        scheduler: LRSchedulerCallable | None = None,
        scheduler_interval: Literal["step", "epoch"] = "epoch",
        compile: bool = False,
    ) -> None:
        super().__init__()
        if "loss" in (metrics or {}):
            raise ValueError("metrics.loss: val/loss is the loss itself. Give the metric another name.")
        self.net = net
        self.loss = loss
        self.metrics = MetricCollection(dict(metrics or {}))
        self.optimizer = optimizer
        self.scheduler = scheduler
        self.scheduler_interval = scheduler_interval
        self._compile = compile
        # Sums over the running epoch, by stage: validation may run amid a training epoch.
        self._loss_sum: dict[str, Any] = defaultdict(float)
        self._num_samples: dict[str, int] = defaultdict(int)
        self._total_steps: int | None = None

    def __setattr__(self, name: str, value: Any) -> None:
        # Lightning notes here which hook runs, 44 times a step; nn.Module would look each time if it is a parameter.
        if isinstance(value, str) or (value is None and name in self.__dict__):
            self.__dict__[name] = value
        else:
            super().__setattr__(name, value)

    def setup(self, stage: str) -> None:
        if self._compile:
            # In place: a compiled and a plain net have the same parameter names and exchange checkpoints.
            graphs = self.trainer.strategy.root_device.type == "cuda" and self.trainer.accumulate_grad_batches == 1
            self.net.compile(mode="reduce-overhead" if graphs else None)
            self._compile = False

    def forward(self, x: Tensor) -> Tensor:
        """Logits of the net."""
        logits: Tensor = self.net(x)
        return logits

    def _step(self, batch: tuple[Tensor, Tensor], stage: str) -> Tensor:
        x, target = batch
        logits = self.net(x)
        loss: Tensor = self.loss(logits, target)
        value = loss.detach().to(torch.promote_types(loss.dtype, torch.float32))  # a sum in half precision loses digits
        self._loss_sum[stage] = value * len(target) + self._loss_sum[stage]
        self._num_samples[stage] += len(target)
        if stage != "train":
            # torchmetrics' classification wants whole-number targets, binary cross-entropy floating-point ones.
            whole = isinstance(self.loss, nn.BCEWithLogitsLoss)
            self.metrics.update(self.scores(logits), target.round().int() if whole else target)
        return loss

    def scores(self, logits: Tensor) -> Tensor:
        """What the loss takes the logits for: probabilities, or for a regression the values themselves.

        Not the logits, because torchmetrics takes any scores that lie within [0, 1] for probabilities.

        Args:
            logits: (B, ...) as the net returns them.

        Returns:
            The same shape.
        """
        if isinstance(self.loss, nn.BCEWithLogitsLoss):
            return logits.sigmoid()
        if isinstance(self.loss, nn.CrossEntropyLoss):
            return logits.softmax(dim=1)
        return logits

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        # Not 1 only for a batch that several processes could not share evenly, see TensorLoader.
        weight: float = getattr(self.trainer.train_dataloader, "weight", 1.0)
        loss = self._step(batch, "train")
        return loss if weight == 1.0 else loss * weight

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        self._step(batch, "val")

    def test_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        self._step(batch, "test")

    def predict_step(self, batch: Tensor | tuple[Tensor, ...], batch_idx: int) -> Tensor:
        """Scores of a batch, see `scores`; a batch is x alone, (x,) or (x, target)."""
        return self.scores(self.net(batch if isinstance(batch, Tensor) else batch[0]))

    def _total(self, stage: str) -> list[Tensor]:
        """Sum of the loss and number of samples of the running epoch, over all processes."""
        sums = (self._loss_sum[stage], self._num_samples[stage])
        reduce = self.trainer.strategy.reduce  # in place
        return [reduce(torch.as_tensor(value, device=self.device).clone(), reduce_op="sum") for value in sums]

    def _log_means(self, stage: str) -> None:
        loss_sum, num_samples = self._total(stage)
        self.log(f"{stage}/loss", loss_sum / num_samples)
        if stage != "train":
            self.log_dict({f"{stage}/{name}": value for name, value in self.metrics.compute().items()})
            self.metrics.reset()
        del self._loss_sum[stage], self._num_samples[stage]

    def on_train_epoch_end(self) -> None:
        self._log_means("train")
        # In an epoch that was resumed Lightning leaves a ReduceLROnPlateau out.
        if self.trainer.fit_loop.restarting and self.trainer.is_last_batch:
            self.trainer.fit_loop.epoch_loop.update_lr_schedulers("epoch", update_plateau_schedulers=True)

    def on_validation_epoch_end(self) -> None:
        self._log_means("val")

    def on_test_epoch_end(self) -> None:
        self._log_means("test")

    def configure_optimizers(self) -> Any:
        optimizer = self.optimizer(self.parameters())
        scheduler = self.scheduler
        if scheduler is None:
            return optimizer
        if isinstance(scheduler, functools.partial) and scheduler.keywords.get("total_steps", 0) is None:
            # What YAML leaves null. Asked for it, Lightning sets up the data: on a resume too early.
            steps = self._total_steps or self.trainer.estimated_stepping_batches
            scheduler = functools.partial(scheduler, total_steps=steps)
        built = scheduler(optimizer)
        config: dict[str, Any] = {"scheduler": built, "interval": self.scheduler_interval}
        if isinstance(built, ReduceLROnPlateau):
            config["monitor"] = built.monitor
        return {"optimizer": optimizer, "lr_scheduler": config}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep the running means: a run resumed amid an epoch reports the mean of the whole epoch."""
        checkpoint["train_means"] = [total.cpu() for total in self._total("train")]

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuse weights of another net; take up the running means, on one process: they are sums over all."""
        if "state_dict" in checkpoint:  # sharded, FSDP has read it already
            check_fit(checkpoint["state_dict"], self)
        if self.trainer.precision == "64-true":
            self.double()  # Lightning does so after it has loaded the weights, and would round them
        for scheduler in checkpoint["lr_schedulers"]:
            self._total_steps = scheduler.get("total_steps")
        if "train_means" in checkpoint:
            loss_sum, num_samples = (total * self.trainer.is_global_zero for total in checkpoint["train_means"])
            self._loss_sum["train"], self._num_samples["train"] = loss_sum.to(self.device), int(num_samples)

    @classmethod
    def load_from_checkpoint(cls, path: str | Path, map_location: Any = "cpu", **overrides: Any) -> Self:  # type: ignore[override]
        """Build the module from the config inside a checkpoint, load its weights, and set it to evaluate.

        Args:
            path: A checkpoint that a run of the command line wrote, or the run's folder.
            map_location: Where the weights go, as for `torch.load`.
            overrides: Arguments of the module that replace the config's.
        """
        return load_module(cls, path, map_location, overrides).eval()
