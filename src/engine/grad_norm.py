"""The norm of the gradient: whether a training is about to explode, or has come to a stand."""

from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.strategies import DeepSpeedStrategy, FSDPStrategy, ModelParallelStrategy
from torch import Tensor
from torch.nn.utils import get_total_norm
from torch.optim import Optimizer

from src.engine.errors import UserError
from src.engine.run import RunCallback

SHARDED = (FSDPStrategy, DeepSpeedStrategy, ModelParallelStrategy)


class GradNorm(RunCallback):
    """Logs for each epoch the mean of its steps' gradient norms, `train/grad_norm`; of a second optimizer `.../1`.

    The 2-norm over all parameters of the optimizer, before clipping. Steps that mixed precision skips do not count. In
    metrics.csv it is the same to the bit after a resume.

    Lightning's `grad_norm` utility waits for the device, for each parameter.

    Args:
        enabled: Whether to log it; a step of XOR takes a tenth longer then.
    """

    def __init__(self, enabled: bool = False) -> None:
        self.enabled = enabled
        # Of each optimizer the sum and the number of its steps, on the device: nothing waits for it.
        self._sums: dict[int, Tensor] = {}

    def needed(self) -> bool:
        return self.enabled and self.run.verb == "fit"

    def setup(self, trainer: Trainer, module: LightningModule, stage: str) -> None:
        if isinstance(trainer.strategy, SHARDED):
            raise UserError(
                f"grad_norm.enabled: with {type(trainer.strategy).__name__} no process has the whole gradient. "
                "Set --grad_norm.enabled false."
            )

    def on_train_start(self, trainer: Trainer, module: LightningModule) -> None:
        fused = any(group.get("fused") for optimizer in trainer.optimizers for group in optimizer.param_groups)
        if fused and trainer.precision == "16-mixed":
            raise UserError(
                "grad_norm.enabled: in 16-mixed a fused optimizer scales the gradient back within its step, where "
                "nobody sees its norm. Set --model.optimizer.fused false."
            )

    def on_before_optimizer_step(self, trainer: Trainer, module: LightningModule, optimizer: Optimizer) -> None:
        gradients = [each.grad for group in optimizer.param_groups for each in group["params"] if each.grad is not None]
        norm = get_total_norm(gradients).float()
        counts = torch.stack([norm.nan_to_num(0.0, 0.0, 0.0), norm.isfinite().float()])
        number = next(place for place, each in enumerate(trainer.optimizers) if _bare(each) is _bare(optimizer))
        self._sums[number] = self._sums.get(number, torch.zeros(2)).to(counts.device) + counts

    def on_train_epoch_end(self, trainer: Trainer, module: LightningModule) -> None:
        for number, (total, steps) in sorted(self._sums.items()):
            name = f"train/grad_norm/{number}" if number else "train/grad_norm"
            module.log(name, total / steps, sync_dist=True, reduce_fx="max")  # it is the same on all processes
        self._sums = {}

    def state_dict(self) -> dict[str, Any]:
        return {"sums": {str(number): value.tolist() for number, value in self._sums.items()}}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._sums = {int(number): torch.tensor(value) for number, value in state["sums"].items()}


def _bare(optimizer: Any) -> Any:
    """The optimizer itself; with manual optimization Lightning may hand over a wrapper."""
    return getattr(optimizer, "optimizer", optimizer)
