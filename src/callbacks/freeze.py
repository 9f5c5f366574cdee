"""Freeze modules, for good or for the first epochs: see configs/callbacks/freeze.yaml."""

from fnmatch import fnmatchcase
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from torch import nn

from src.engine.errors import UserError


class Freeze(Callback):
    """Freezes modules (no gradient, eval mode) until an epoch.

    In eval mode a batch norm keeps its running statistics, too. With DDP take the strategy
    `ddp_find_unused_parameters_true`. A net that freezes a part by a `train()` of its own needs this callback, too:
    Lightning never calls `train()`.

    Args:
        modules: Their names, as the model has them, patterns, or their classes or base classes: [net.layers.0,
            "net.encoder.*", BatchNorm2d], or [_BatchNorm] for any number of dimensions.
        until_epoch: The first epoch that trains them, too; none does by default.
    """

    def __init__(self, modules: list[str], until_epoch: int | None = None) -> None:
        self.modules = modules
        self.until_epoch = until_epoch
        self._modes: dict[nn.Module, bool] = {}  # of the frozen modules, before
        self._weights: list[nn.Parameter] = []

    def on_train_start(self, trainer: Trainer, module: LightningModule) -> None:
        parts = self._find(module)
        self._modes = {inner: inner.training for part in parts for inner in part.modules()}
        # What the net itself keeps fixed stays so later.
        self._weights = [weight for part in parts for weight in part.parameters() if weight.requires_grad]
        for weight in self._weights:
            weight.requires_grad_(False)

    def on_train_batch_start(self, trainer: Trainer, module: LightningModule, batch: Any, batch_idx: int) -> None:
        if self.until_epoch is not None and trainer.current_epoch >= self.until_epoch:
            for part, mode in self._modes.items():
                part.train(mode)
            for weight in self._weights:
                weight.requires_grad_(True)
            self._modes, self._weights = {}, []
        for part in self._modes:
            if part.training:  # at first, and where a hook of the module's own called `train`
                part.eval()

    def _find(self, module: LightningModule) -> list[nn.Module]:
        known = {name: part for name, part in module.named_modules() if name}
        classes = {name: {cls.__name__ for cls in type(part).__mro__} for name, part in known.items()}
        found = {each: [n for n in known if fnmatchcase(n, each) or each in classes[n]] for each in self.modules}
        if wrong := [each for each, names in found.items() if not names]:
            there = ", ".join(f"{name} ({type(part).__name__})" for name, part in known.items())
            raise UserError(f"Freeze: {', '.join(wrong)} names no module; there are {there}.")
        return [known[name] for names in found.values() for name in names]
