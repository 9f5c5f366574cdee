"""The LightningModule: a net, a loss, metrics and an optimizer, each named in YAML."""

from typing import Any, Literal

from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from torch import Tensor, nn
from torchmetrics import Metric

from src.engine.data.batches import take_apart
from src.engine.module import losses
from src.engine.module.base_module import BaseModule
from src.engine.module.optimizers import Group, configure
from src.engine.module.step import StepOutput, as_output, loss_of

__all__ = ["LitModule", "StepOutput"]


class LitModule(BaseModule):
    """Trains a net on batches of (x, target), or on dicts.

    Logs the mean loss of each epoch and stage, and the metrics of validation and test: `train/loss`, `val/acc`. A
    training step costs what a hand-written one does: no metric object, no `self.log`, no wait for the device.

    Args:
        net: Takes x, or a dict's tensors as keywords; returns logits (or values, for a regression). A plain module.
        loss: Takes (logits, target), returns the mean over the batch, (sum, weight), or a dict of `loss` and its parts.
            With null the net takes the whole dict and returns an object with `loss` and `logits`; see `losses.NetLoss`.
        optimizer: Takes the parameters, returns their optimizer.
        metrics: By name. Each takes (scores, target), see `scores`; they leave out the `ignore_index` of the loss.
        scheduler: Takes the optimizer, returns its learning-rate scheduler. A length of null (`total_steps`, `T_max`,
            `total_iters`) becomes that of the run, in steps or epochs.
        scheduler_interval: When the scheduler moves.
        activation: Turns logits into scores, see `scores`. By default what belongs to the loss.
        groups: Options of the optimizer for some parameters, by patterns of their names. Where several match, their
            options are merged and the later one wins; see `optimizers.param_groups`.
        compile: Compile the net with torch.compile; on CUDA with CUDA graphs.
    """

    def __init__(
        self,
        net: nn.Module,
        loss: nn.Module | None,
        optimizer: OptimizerCallable,
        metrics: dict[str, Metric] | None = None,
        scheduler: LRSchedulerCallable | None = None,
        scheduler_interval: Literal["step", "epoch"] = "epoch",
        activation: losses.Activation | nn.Module | None = None,
        groups: list[Group] | None = None,
        compile: bool = False,
    ) -> None:
        taken = losses.take_loss(loss, metrics)
        super().__init__(metrics, compile)
        self.net = net
        self.loss: Any = taken
        self.optimizer = optimizer
        self.scheduler = scheduler
        self.scheduler_interval = scheduler_interval
        self.groups = groups
        self.activation = activation or losses.activation_of(loss)

    def forward(self, inputs: Any) -> Any:
        """Logits of x, or of a dict with the net's keywords."""
        outputs = self.net(**inputs) if isinstance(inputs, dict) else self.net(inputs)
        return getattr(outputs, "logits", outputs)

    def step(self, batch: Any) -> Any:
        """What a batch is and what it gives: override it for batches, nets or losses of another kind."""
        if isinstance(self.loss, losses.NetLoss):
            return self.loss(self.net, batch)
        inputs, target = take_apart(batch)
        logits = self(inputs)
        if self.is_first_batch():
            losses.check_target(self.loss, logits, target, batch, self.activation)
        value = self.loss(logits, target)
        return StepOutput(outputs=logits, target=target, **loss_of(value, losses.mean_over(self.loss, target)))

    def scores(self, outputs: Any) -> Any:
        """Probabilities, or for a regression the values themselves; (B, ...), the same shape back.

        Not the logits, because torchmetrics takes any scores that lie within [0, 1] for probabilities.
        """
        match self.activation:
            case "softmax":
                return outputs.softmax(dim=self.class_dim(outputs))
            case "sigmoid":
                return outputs.sigmoid()
            case "exp":
                return outputs.exp()
            case "identity":
                return outputs
            case None:
                raise losses.NoActivation(self.loss)
        return self.activation(outputs)

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        return self.count("train", as_output(self.step(batch), batch))

    def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> Any:
        return self.evaluate("val", as_output(self.step(batch), batch), dataloader_idx)

    def test_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> Any:
        return self.evaluate("test", as_output(self.step(batch), batch), dataloader_idx)

    def predict_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> Any:
        """Scores of a batch, which may lack the target; where no activation is known the net's outputs, as `logits`."""
        outputs = self(take_apart(batch, needs_target=False)[0])
        try:
            return self.scores(outputs)
        except losses.NoActivation:
            return {"logits": outputs} if isinstance(outputs, Tensor) else outputs

    def configure_optimizers(self) -> Any:
        return configure(self, self.optimizer, self.groups, self.scheduler, self.scheduler_interval)
