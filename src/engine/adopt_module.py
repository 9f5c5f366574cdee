"""What any LightningModule gets: gradients and logged means over all processes, and only weights that fit."""

import functools
from collections.abc import Callable
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from torch import Tensor

from src.engine.checkpoint import check_fit
from src.engine.lightning_fixes.loops import SyncedLog, weight_of_the_rest
from src.engine.lightning_fixes.parts import double_before_weights
from src.engine.order import Position, leaves
from src.engine.run import RunCallback


def adopt_module(trainer: Trainer, module: LightningModule) -> None:
    """Wrap four of its methods; a subclass may override each.

    Args:
        trainer: That will run it.
        module: Any.
    """
    module.on_load_checkpoint = _Fits(module.on_load_checkpoint, module)  # type: ignore[method-assign]
    module.backward = _Weighed(module.backward, module, trainer)  # type: ignore[method-assign]
    module.on_train_batch_end = _BatchEnd(module.on_train_batch_end, trainer)  # type: ignore[method-assign]
    if trainer.world_size > 1:
        module.log = SyncedLog(module.log, module)  # type: ignore[method-assign]


class Wrapper:
    """Wraps a method and knows the trainer: in a copy of the module, where averaged weights lie, it stays the same."""

    def __deepcopy__(self, memo: dict[int, Any]) -> "Wrapper":
        return self


class _Fits(Wrapper):
    """`on_load_checkpoint` that refuses weights of another net in words."""

    def __init__(self, hook: Callable[..., None], module: LightningModule) -> None:
        functools.update_wrapper(self, hook)
        self._hook = hook
        self._module = module

    def __call__(self, checkpoint: dict[str, Any]) -> None:
        if "state_dict" in checkpoint:  # sharded, FSDP has read it already
            check_fit(checkpoint["state_dict"], self._module)
        double_before_weights(self._module)
        self._hook(checkpoint)


class _BatchEnd(Wrapper):
    """`on_train_batch_end`, after which a batch is done: what callbacks save before would lack what it changes."""

    def __init__(self, hook: Callable[..., None], trainer: Trainer) -> None:
        functools.update_wrapper(self, hook)
        self._hook = hook
        self._trainer = trainer

    def __call__(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        self._hook(outputs, batch, batch_idx)
        for callback in self._trainer.callbacks:  # type: ignore[attr-defined]
            if isinstance(callback, RunCallback):
                callback.after_train_batch(self._trainer, batch_idx)


class _Weighed(Wrapper):
    """A module's `backward` whose gradients, averaged over processes and accumulated batches, are those of a mean."""

    def __init__(self, backward: Callable[..., None], module: LightningModule, trainer: Trainer) -> None:
        functools.update_wrapper(self, backward)
        self._backward = backward
        self._module = module
        self._trainer = trainer

    def __call__(self, loss: Tensor, *args: Any, **kwargs: Any) -> None:
        weight = batch_weight(self._trainer, self._module) if self._trainer.world_size > 1 else 1.0
        if self._trainer.accumulate_grad_batches > 1:
            weight = weight * weight_of_the_rest(self._trainer)
        self._backward(loss if isinstance(weight, float) and weight == 1.0 else loss * weight, *args, **kwargs)


def batch_weight(trainer: Trainer, module: LightningModule) -> float | Tensor:
    """What the batch in hand of this process counts for in the mean over all; all processes ask together.

    Args:
        trainer: Amid a training step.
        module: That trains.
    """
    own: Callable[[], Tensor | None] | None = getattr(module, "batch_weight", None)
    weight = own() if own else None
    if weight is not None:
        return weight
    # Not 1 where the rows of a batch do not split evenly.
    loader = next(leaves(trainer.train_dataloader), None)
    return loader.weight_of(trainer.fit_loop.batch_idx) if isinstance(loader, Position) else 1.0
