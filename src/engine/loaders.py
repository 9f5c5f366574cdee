"""What the loaders of a run are told: the device, the rank, and that overfitting wants the same batches each epoch."""

import functools
from collections.abc import Callable
from typing import Any, Protocol, runtime_checkable

import torch
from lightning.pytorch import LightningDataModule, LightningModule, Trainer
from torch import Tensor

HOOKS = ("train_dataloader", "val_dataloader", "test_dataloader", "predict_dataloader")


@runtime_checkable
class Placeable(Protocol):
    """A loader that shares its batches among processes by itself, as TensorLoader does."""

    def place(self, move: Callable[[Tensor], Tensor], rank: int, world_size: int, keep_order: bool) -> None:
        """Settle where the batches lie and which of them are this process's.

        Args:
            move: Brings a tensor to the device of the run, each once.
            rank: 0 to W-1.
            world_size: W.
            keep_order: Whether each epoch is to have the same batches.
        """


class _Adopted:
    """A hook of the user's whose loaders are placed before Lightning sees them."""

    def __init__(self, hook: Callable[[], Any], trainer: Trainer, moved: dict[int, tuple[Tensor, Tensor]]) -> None:
        functools.update_wrapper(self, hook)
        self._hook = hook
        self._trainer = trainer
        self._moved = moved

    def __call__(self) -> Any:
        return self._place(self._hook())

    def _place(self, loader: Any) -> Any:
        if isinstance(loader, dict):
            return {name: self._place(each) for name, each in loader.items()}
        if isinstance(loader, list | tuple):
            return type(loader)(self._place(each) for each in loader)
        if isinstance(loader, Placeable):
            trainer = self._trainer
            keep_order = bool(getattr(trainer, "overfit_batches", 0))
            loader.place(self._move, trainer.global_rank, trainer.world_size, keep_order)
        return loader

    def _move(self, tensor: Tensor) -> Tensor:
        device: torch.device = self._trainer.strategy.root_device
        if id(tensor) not in self._moved:
            self._moved[id(tensor)] = (tensor, tensor.to(device))  # with the first, or its id may come again
        return self._moved[id(tensor)][1]


def adopt(trainer: Trainer, *sources: LightningModule | LightningDataModule) -> None:
    """Let the loaders that some hooks return be placed: on the trainer's device, shared by its processes.

    Args:
        trainer: That will call the hooks.
        sources: Modules and data modules with `train_dataloader` and the like.
    """
    moved: dict[int, tuple[Tensor, Tensor]] = {}
    for source in sources:
        for hook in HOOKS:
            setattr(source, hook, _Adopted(getattr(source, hook), trainer, moved))
