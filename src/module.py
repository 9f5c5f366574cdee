"""The LightningModule: a net, a loss, metrics and an optimizer, each named in YAML."""

from typing import Any, Literal

from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from torch import nn
from torchmetrics import Metric

from src.engine.data.batches import take_apart
from src.engine.module import losses
from src.engine.module.base_module import BaseModule
from src.engine.module.losses import StepOutput as StepOutput
from src.engine.module.optimizers import Group, configure


class LitModule(BaseModule):
    """Trains a net on batches of (x, target), or on dicts; logs `train/loss`, `val/loss`, and metrics: `val/acc`.

    Args:
        net: Takes x, or a dict's tensors as keywords; returns logits (or values, for a regression). A plain module.
        loss: Takes (logits, target), returns the mean over the batch, (sum, weight), or a dict of `loss` and its parts.
            With null the net takes the whole dict and returns an object with `loss` and `logits`; see `losses.NetLoss`.
        optimizer: Takes the parameters, returns their optimizer.
        metrics: By name. Each takes (scores, target), see `scores`; they leave out the `ignore_index` of the loss.
        scheduler: Takes the optimizer. A length of null (`total_steps`, `T_max`, `total_iters`) is that of the run.
        scheduler_interval: When the scheduler moves.
        activation: Turns logits into scores, see `scores`. By default what belongs to the loss.
        groups: Options of the optimizer for some parameters, by patterns of names; see `optimizers.param_groups`.
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
        self.activation = activation or losses.activation_of(loss)
        self.groups = groups

    def forward(self, inputs: Any) -> Any:
        """Return the logits of x, or of a dict with the net's keywords."""
        outputs = self.net(**inputs) if isinstance(inputs, dict) else self.net(inputs)
        return getattr(outputs, "logits", outputs)

    def step(self, batch: Any) -> StepOutput:
        """Compute the loss of a batch. Override it for batches, nets or losses of another kind."""
        if isinstance(self.loss, losses.NetLoss):
            return self.loss(self.net, batch)
        inputs, target = take_apart(batch)
        logits = self(inputs)
        losses.check_target(self.loss, self.activation, logits, target)
        return StepOutput(self.loss(logits, target), losses.mean_over(self.loss, target), logits, target)

    def scores(self, outputs: Any) -> Any:
        """Return what metrics see: probabilities, or the values of a regression; (B, ...), the same shape back."""
        return losses.to_scores(self.loss, self.activation, outputs)

    def training_step(self, batch: Any, batch_idx: int) -> Any:  # validation and test: BaseModule
        return self.count("train", self.step(batch), batch).loss

    def predict_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> Any:
        """Return the scores of a batch, which may lack the target; the logits where no activation is known."""
        return self.known_scores(self(take_apart(batch, needs_target=False)[0]))

    def configure_optimizers(self) -> Any:
        return configure(self)
