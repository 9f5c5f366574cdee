"""The LightningModule: a net, a loss, metrics and an optimizer, each named in YAML."""

from typing import Any, Literal

from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable, ReduceLROnPlateau
from torch import Tensor, nn
from torchmetrics import Metric, MetricCollection

from src.engine.base_module import BaseModule
from src.engine.errors import UserError

Activation = Literal["sigmoid", "softmax", "identity"]
# What a loss takes the logits for, where no `activation` is named.
ACTIVATIONS: tuple[tuple[type[nn.Module], Activation], ...] = (
    (nn.BCEWithLogitsLoss, "sigmoid"),
    (nn.CrossEntropyLoss, "softmax"),
    (nn.Module, "identity"),
)


class LitModule(BaseModule):
    """Trains a net on batches of (x, target).

    Logs the mean loss of each epoch and stage, and the metrics of validation and test: `train/loss`, `val/acc`. A
    training step costs what a hand-written one does: no metric object, no `self.log`, no wait for the device.

    Args:
        net: Takes x, returns logits (or values, for a regression); a plain module.
        loss: Takes (logits, target), returns the mean over the batch.
        optimizer: Takes the parameters, returns their optimizer.
        metrics: By name. Each takes (scores, target), see `scores`.
        scheduler: Takes the optimizer, returns its learning-rate scheduler. `total_steps: null` becomes the number of
            steps of the run, whatever its epochs, batches and devices.
        scheduler_interval: When the scheduler moves on.
        activation: Turns logits into scores, see `scores`. By default what belongs to the loss, else `identity`.
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
        activation: Activation | None = None,
        compile: bool = False,
    ) -> None:
        super().__init__(compile)
        if "loss" in (metrics or {}):
            raise UserError("metrics.loss: val/loss is the loss itself. Give the metric another name.")
        self.net = net
        self.loss = loss
        self.metrics = MetricCollection(dict(metrics or {}))
        self.optimizer = optimizer
        self.scheduler = scheduler
        self.scheduler_interval = scheduler_interval
        self.activation = activation or next(name for kind, name in ACTIVATIONS if isinstance(loss, kind))

    def forward(self, x: Tensor) -> Tensor:
        """Logits of the net."""
        logits: Tensor = self.net(x)
        return logits

    def _step(self, batch: tuple[Tensor, Tensor], stage: str) -> Tensor:
        x, target = batch
        logits = self.net(x)
        loss: Tensor = self.loss(logits, target)
        self.add_to_mean(stage, loss, len(target))
        if stage != "train":
            # torchmetrics' classification wants whole-number targets, binary cross-entropy floating-point ones.
            whole = self.activation == "sigmoid"
            self.metrics.update(self.scores(logits), target.round().int() if whole else target)
        return loss

    def scores(self, logits: Tensor) -> Tensor:
        """Probabilities, or for a regression the values themselves; (B, ...), the same shape back.

        Not the logits, because torchmetrics takes any scores that lie within [0, 1] for probabilities.
        """
        if self.activation == "sigmoid":
            return logits.sigmoid()
        return logits.softmax(dim=1) if self.activation == "softmax" else logits

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        return self._step(batch, "train")

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        self._step(batch, "val")

    def test_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        self._step(batch, "test")

    def predict_step(self, batch: Tensor | tuple[Tensor, ...], batch_idx: int, dataloader_idx: int = 0) -> Tensor:
        """Scores of a batch; a batch is x alone, (x,) or (x, target)."""
        return self.scores(self.net(batch if isinstance(batch, Tensor) else batch[0]))

    def on_train_epoch_end(self) -> None:
        self.log("train/loss", self.take_mean("train"))
        super().on_train_epoch_end()

    def on_validation_epoch_end(self) -> None:
        self._log_evaluation("val")

    def on_test_epoch_end(self) -> None:
        self._log_evaluation("test")

    def _log_evaluation(self, stage: str) -> None:
        self.log(f"{stage}/loss", self.take_mean(stage))
        self.log_dict({f"{stage}/{name}": value for name, value in self.metrics.compute().items()})
        self.metrics.reset()

    def configure_optimizers(self) -> Any:
        optimizer = self.optimizer(self.parameters())
        if self.scheduler is None:
            return optimizer
        scheduler = self.fill_total_steps(self.scheduler)(optimizer)
        config: dict[str, Any] = {"scheduler": scheduler, "interval": self.scheduler_interval}
        if isinstance(scheduler, ReduceLROnPlateau):
            config["monitor"] = scheduler.monitor
        return {"optimizer": optimizer, "lr_scheduler": config}
