"""Freeze modules, for good or for the first epochs: see configs/callbacks/freeze.yaml."""

from fnmatch import fnmatchcase
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from torch import nn

from src.engine.errors import UserError


class Freeze(Callback):
    """Freezes modules (no gradient, eval mode) until an epoch.

    In eval mode a batch norm keeps its running statistics, too. With DDP take the strategy
    `ddp_find_unused_parameters_true`. A net that freezes a part by a `train()` of its own needs no callback.

    Args:
        modules: Their names, as the model has them, or patterns: [net.layers.0, "net.encoder.*"].
        until_epoch: The first epoch that trains them, too; none does by default.
        types: Names of classes; modules of these classes, or of ones that derive from them, are frozen wherever they
            are: [BatchNorm2d], or [_BatchNorm] for every number of dimensions.
    """

    def __init__(
        self, modules: list[str] | None = None, until_epoch: int | None = None, types: list[str] | None = None
    ) -> None:
        self.modules = modules or []
        self.types = types or []
        self.until_epoch = until_epoch
        # The frozen modules, with their mode before.
        self._modes: dict[nn.Module, bool] = {}
        self._weights: list[nn.Parameter] = []

    def on_train_start(self, trainer: Trainer, module: LightningModule) -> None:
        parts = self._find(module)
        if self._is_over(trainer):
            return
        self._modes = {inner: inner.training for part in parts for inner in part.modules()}
        # What the net itself keeps fixed stays so later.
        self._weights = [weight for part in parts for weight in part.parameters() if weight.requires_grad]
        for weight in self._weights:
            weight.requires_grad_(False)

    def on_train_epoch_start(self, trainer: Trainer, module: LightningModule) -> None:
        if self._is_over(trainer):
            for part, mode in self._modes.items():
                part.train(mode)
            for weight in self._weights:
                weight.requires_grad_(True)
            self._modes, self._weights = {}, []

    def on_train_batch_start(self, trainer: Trainer, module: LightningModule, batch: Any, batch_idx: int) -> None:
        for part in self._modes:
            if part.training:  # at first, and where a hook of the module's own called `train`
                part.eval()

    def _is_over(self, trainer: Trainer) -> bool:
        return self.until_epoch is not None and trainer.current_epoch >= self.until_epoch

    def _find(self, module: LightningModule) -> list[nn.Module]:
        known = {name: part for name, part in module.named_modules() if name}
        classes = {name: {cls.__name__ for cls in type(part).__mro__} for name, part in known.items()}
        if not self.modules and not self.types:
            raise UserError(f"Freeze: name what is to be frozen, by modules or types; there are {', '.join(known)}.")
        if unknown := [name for name in self.modules if not any(fnmatchcase(each, name) for each in known)]:
            raise UserError(f"Freeze: there is no module {', '.join(unknown)}; there are {', '.join(known)}.")
        if unknown := [name for name in self.types if not any(name in each for each in classes.values())]:
            there = dict.fromkeys(type(part).__name__ for part in known.values())
            raise UserError(f"Freeze: no module is a {', '.join(unknown)}; there are {', '.join(there)}.")
        return [
            part
            for name, part in known.items()
            if classes[name] & set(self.types) or any(fnmatchcase(name, each) for each in self.modules)
        ]
