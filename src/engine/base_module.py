"""The LightningModule below yours: exact means, a resume to the bit, and one file that is enough to load it."""

import functools
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from src.engine.checkpoint import check_fit, load_module
from src.engine.lightning_fixes import QuickAttributes, double_before_weights, step_plateau


class BaseModule(QuickAttributes):
    """Sums up over samples, epoch and processes; a run resumed amid an epoch reports the mean of the whole epoch."""

    net: nn.Module

    def __init__(self, compile: bool = False) -> None:
        super().__init__()
        self._compile = compile
        # Sums over the running epoch, by stage: validation may run amid a training epoch.
        self._loss_sum: dict[str, Any] = defaultdict(float)
        self._num_samples: dict[str, int] = defaultdict(int)
        self._total_steps: int | None = None

    def setup(self, stage: str) -> None:
        if self._compile:
            # In place: a compiled and a plain net have the same parameter names and exchange checkpoints.
            graphs = self.trainer.strategy.root_device.type == "cuda" and self.trainer.accumulate_grad_batches == 1
            self.net.compile(mode="reduce-overhead" if graphs else None)
            self._compile = False

    def add_to_mean(self, stage: str, loss: Tensor, num_samples: int) -> None:
        """Count a batch.

        Args:
            stage: `train`, `val` or `test`.
            loss: The mean over the batch, a number; nothing waits for the device.
            num_samples: In the batch.
        """
        value = loss.detach().to(torch.promote_types(loss.dtype, torch.float32))  # a sum in half precision loses digits
        self._loss_sum[stage] = value * num_samples + self._loss_sum[stage]
        self._num_samples[stage] += num_samples

    def take_mean(self, stage: str) -> Tensor:
        """The mean loss of the running epoch, over all processes; the next one begins."""
        loss_sum, num_samples = self._total(stage)
        del self._loss_sum[stage], self._num_samples[stage]
        return loss_sum / num_samples

    def _total(self, stage: str) -> list[Tensor]:
        sums = (self._loss_sum[stage], self._num_samples[stage])
        reduce = self.trainer.strategy.reduce  # in place
        return [reduce(torch.as_tensor(value, device=self.device).clone(), reduce_op="sum") for value in sums]

    def fill_total_steps(self, scheduler: Callable[[Optimizer], Any]) -> Callable[[Optimizer], Any]:
        """A scheduler whose `total_steps` YAML leaves null, with the steps of the run."""
        if not isinstance(scheduler, functools.partial) or scheduler.keywords.get("total_steps", 0) is not None:
            return scheduler
        # Asked for it, Lightning sets up the data: on a resume too early.
        return functools.partial(scheduler, total_steps=self._total_steps or self.trainer.estimated_stepping_batches)

    def on_train_epoch_end(self) -> None:
        step_plateau(self.trainer)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep the running means."""
        sums = [torch.as_tensor(value).cpu() for value in (self._loss_sum["train"], self._num_samples["train"])]
        shares: list[Any] = [sums] * self.trainer.world_size
        if self.trainer.world_size > 1:
            torch.distributed.all_gather_object(shares, sums)
        checkpoint["train_means"] = shares  # each process its own, or the last digit would depend on the resume

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuse weights of another net; take up the running means."""
        if "state_dict" in checkpoint:  # sharded, FSDP has read it already
            check_fit(checkpoint["state_dict"], self)
        double_before_weights(self)
        for scheduler in checkpoint["lr_schedulers"]:
            self._total_steps = scheduler.get("total_steps")
        if "train_means" in checkpoint:
            shares, rank = checkpoint["train_means"], self.trainer.global_rank
            if isinstance(shares[0], Tensor):  # the sums over all, as they were saved once
                shares = [shares]
            if len(shares) != self.trainer.world_size:
                shares = [[sum(values) for values in zip(*shares, strict=True)]]
            loss_sum, num_samples = shares[rank] if rank < len(shares) else (torch.zeros(()), 0)
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
