"""The LightningModule: a net, a loss, metrics and an optimizer, each named in YAML."""

import functools
from pathlib import Path
from typing import Any, Literal, Self

import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable, ReduceLROnPlateau
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn
from torchmetrics import Metric, MetricCollection


class LitModule(LightningModule):
    """Trains a net on batches of (x, target).

    Logs the mean loss of each epoch and stage, and the metrics of validation and test: `train/loss`, `val/loss`, `val/acc`.
    The training step costs what a hand-written one does: no metric object, no `self.log`, no wait for the device.

    Args:
        net: Takes x, returns logits (or values, for a regression); a plain module.
        loss: Takes (logits, target), returns the mean over the batch.
        optimizer: Takes the parameters, returns their optimizer.
        metrics: By name. Take (scores, target), see `scores`.
        scheduler: Takes the optimizer, returns its learning-rate scheduler. `total_steps: null` becomes the steps of the
            whole run, whatever the number of epochs and devices.
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
        self.net = net
        self.loss = loss
        self.metrics = MetricCollection(dict(metrics or {}))
        self.optimizer = optimizer
        self.scheduler = scheduler
        self.scheduler_interval = scheduler_interval
        self._compile = compile
        # Sums over the samples of the running epoch, one for each stage: validation may run amid a training epoch.
        self._loss_sum: dict[str, Tensor | float] = {}
        self._num_samples: dict[str, int] = {}

    def setup(self, stage: str) -> None:
        """Compile in place, so that a compiled and a plain net have the same parameter names."""
        if self._compile:
            graphs = self.trainer.strategy.root_device.type == "cuda"
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
        self._loss_sum[stage] += loss.detach() * len(target)
        self._num_samples[stage] += len(target)
        if stage != "train":
            # torchmetrics' classification wants whole-number targets, binary cross-entropy floating-point ones.
            binary = isinstance(self.loss, nn.BCEWithLogitsLoss)
            self.metrics.update(self.scores(logits), target.int() if binary else target)
        return loss

    def scores(self, logits: Tensor) -> Tensor:
        """What the loss takes the logits for: probabilities, or for a regression the values themselves.

        Probabilities and not logits, because torchmetrics takes any scores within [0, 1] for probabilities.

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
        """Loss of a batch."""
        # 1 but for a batch that several processes could not share evenly, see TensorLoader.
        weight: float = getattr(self.trainer.train_dataloader, "weight", 1.0)
        loss = self._step(batch, "train")
        return loss if weight == 1.0 else loss * weight

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        """Add a batch to the validation means."""
        self._step(batch, "val")

    def test_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        """Add a batch to the test means."""
        self._step(batch, "test")

    def predict_step(self, batch: tuple[Tensor, ...], batch_idx: int) -> Tensor:
        """Scores of a batch, see `scores`; a target in the batch is left aside."""
        return self.scores(self.net(batch[0]))

    def _start(self, stage: str) -> None:
        self._loss_sum[stage] = 0.0
        self._num_samples[stage] = 0
        if stage != "train":
            self.metrics.reset()

    def _total(self, stage: str) -> tuple[Tensor, Tensor]:
        """Sum of the loss and number of samples of the running epoch, over all processes."""
        sums = [torch.as_tensor(value, device=self.device) for value in (self._loss_sum[stage], self._num_samples[stage])]
        loss_sum, num_samples = (self.trainer.strategy.reduce(value, reduce_op="sum") for value in sums)
        return loss_sum, num_samples

    def _log_means(self, stage: str) -> None:
        loss_sum, num_samples = self._total(stage)
        self.log(f"{stage}/loss", loss_sum / num_samples)
        if stage != "train":
            self.log_dict({f"{stage}/{name}": value for name, value in self.metrics.compute().items()})

    def on_train_epoch_start(self) -> None:
        """Start the means of a training epoch."""
        self._start("train")

    def on_train_epoch_end(self) -> None:
        """Log them."""
        self._log_means("train")

    def on_validation_epoch_start(self) -> None:
        """Start the means of a validation."""
        self._start("val")

    def on_validation_epoch_end(self) -> None:
        """Log them."""
        self._log_means("val")

    def on_test_epoch_start(self) -> None:
        """Start the means of a test."""
        self._start("test")

    def on_test_epoch_end(self) -> None:
        """Log them."""
        self._log_means("test")

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """The optimizer, and the scheduler if there is one."""
        optimizer = self.optimizer(self.parameters())
        if self.scheduler is None:
            return optimizer
        scheduler = self.scheduler
        # YAML's arguments arrive as those of a functools.partial.
        if isinstance(scheduler, functools.partial) and scheduler.keywords.get("total_steps", 0) is None:
            scheduler = functools.partial(scheduler, total_steps=int(self.trainer.estimated_stepping_batches))
        built = scheduler(optimizer)
        config: dict[str, Any] = {"scheduler": built, "interval": self.scheduler_interval}
        if isinstance(built, ReduceLROnPlateau):
            config["monitor"] = built.monitor
        return {"optimizer": optimizer, "lr_scheduler": config}  # type: ignore[return-value, typeddict-item]

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep the running means: a run resumed amid an epoch reports the mean of the whole."""
        if "train" in self._loss_sum:
            loss_sum, num_samples = self._total("train")
            checkpoint["train_means"] = {"loss_sum": loss_sum, "num_samples": num_samples}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Take them up again, on one process: they are summed over all."""
        self._start("train")
        if "train_means" in checkpoint and self.trainer.is_global_zero:
            means = checkpoint["train_means"]
            self._loss_sum["train"] = means["loss_sum"].to(self.device)
            self._num_samples["train"] = int(means["num_samples"])

    @classmethod
    def load_from_checkpoint(cls, path: str | Path, map_location: Any = "cpu", **overrides: Any) -> Self:  # type: ignore[override]
        """Build the module from the config inside a checkpoint and load its weights.

        Args:
            path: A checkpoint that a run of the command line wrote.
            map_location: Where the weights go, as for `torch.load`.
            overrides: Arguments of the module that replace the config's.

        Returns:
            The module in evaluation mode.
        """
        from src.checkpoint import build, read_checkpoint

        checkpoint = read_checkpoint(path, map_location)
        module = build(cls, {**checkpoint["config"]["model"], **overrides})
        module.load_state_dict(checkpoint["state_dict"])
        return module.eval()
