"""Means of losses over samples, an epoch and all processes; nothing waits for the device."""

from typing import Any

import torch
from lightning.pytorch import LightningModule
from torch import Tensor

from src.engine.module.step import StepOutput


class Means:
    """Sums of loss and parts, each with what it counts for, by stage and data set."""

    def __init__(self) -> None:
        # Validation may run amid a training epoch: its sums stand apart.
        self._sums: dict[str, dict[str, tuple[Any, Any]]] = {}
        self.last: int | Tensor = 0

    def add(self, key: str, output: StepOutput) -> None:
        """Count a batch.

        Args:
            key: `train/0`: stage and data set.
            output: Of the step.
        """
        self.last = number = output.num_samples
        sums = self._sums.setdefault(key, {})
        for name, mean in (("loss", output.loss), *output.parts.items()):
            value = mean.detach().to(torch.promote_types(mean.dtype, torch.float32))  # a sum in half loses digits
            # A batch of padding alone has no mean.
            if isinstance(number, int):
                total = value * number if number else torch.zeros_like(value)
            else:
                total = (value * number).where(number > 0, 0)
            before, count = sums.get(name, (0.0, 0))
            sums[name] = (total + before, number + count)

    def take(self, key: str, module: LightningModule) -> dict[str, Tensor]:
        """The means of the running epoch over all processes, by name; none where nothing was counted anywhere.

        Args:
            key: Stage and data set; the next epoch begins.
            module: Of the run; knows the device and the other processes.
        """
        sums = self._sums.pop(key, {})
        names = [list(sums)]
        if module.trainer.world_size > 1:  # one may have had no batch
            names *= module.trainer.world_size
            torch.distributed.all_gather_object(names, list(sums))
        every = dict.fromkeys(name for each in names for name in each)
        return {name: self._mean(sums.get(name, (0.0, 0)), module) for name in every}

    @staticmethod
    def _mean(sums: tuple[Any, Any], module: LightningModule) -> Tensor:
        reduce = module.trainer.strategy.reduce  # in place
        total, count = (reduce(torch.as_tensor(value, device=module.device).clone(), reduce_op="sum") for value in sums)
        return total / count

    def state_dict(self, key: str, world_size: int) -> list[dict[str, list[Tensor]]]:
        """The sums of each process: put together, the last digit would depend on the resume."""
        mine = {
            name: [torch.as_tensor(value).cpu() for value in sums] for name, sums in self._sums.get(key, {}).items()
        }
        shares: list[Any] = [mine] * world_size
        if world_size > 1:
            torch.distributed.all_gather_object(shares, mine)
        return shares

    def load_state_dict(self, key: str, shares: list[Any], module: LightningModule) -> None:
        """Take up sums; those of another number of processes are put together on the first.

        Args:
            key: Stage and data set.
            shares: As `state_dict` gives them, of each process.
            module: Of the run.
        """
        rank = module.trainer.global_rank
        if len(shares) != module.trainer.world_size:
            names = dict.fromkeys(name for share in shares for name in share)
            kept = {name: [share[name] for share in shares if name in share] for name in names}
            shares = [{name: [sum(v) for v in zip(*sums, strict=True)] for name, sums in kept.items()}]
        mine = shares[rank] if rank < len(shares) else {}
        self._sums[key] = {
            name: (total.to(module.device), count.to(module.device)) for name, (total, count) in mine.items()
        }
