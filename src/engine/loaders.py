"""Takes over whatever loaders the user's hooks return: each then orders, shares and resumes its batches by itself.

Lightning rebuilds, shards and wraps only a DataLoader: what it gets here is none.
"""

import functools
from collections.abc import Callable
from typing import Any, Protocol, runtime_checkable

import torch
from lightning.pytorch import LightningDataModule, LightningModule, Trainer
from lightning.pytorch.utilities import CombinedLoader
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset

from src.engine.adopt_module import Wrapper, adopt_module
from src.engine.errors import UserError
from src.engine.lightning_fixes.loops import hand_back_between_epochs
from src.engine.map_loader import MapLoader
from src.engine.order import Position, leaves
from src.engine.stream_loader import take_over

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


def adopt(trainer: Trainer, *sources: LightningModule | LightningDataModule) -> None:
    """Take over the loaders that some hooks return, and what modules log; in Python, call it before `trainer.fit`.

    Args:
        trainer: That will call the hooks.
        sources: Modules and data modules with `train_dataloader` and the like.
    """
    moved: dict[int, tuple[Tensor, Tensor]] = {}
    for source in sources:
        for hook in HOOKS:
            setattr(source, hook, _Adopted(getattr(source, hook), trainer, moved))
        if isinstance(source, LightningModule):
            adopt_module(trainer, source)


def refuse_a_test_without_data(*sources: LightningModule | LightningDataModule) -> None:
    """See before a fit that it can be tested.

    Raises:
        UserError: If none of them has a `test_dataloader`.
    """
    bases = {LightningModule.test_dataloader, LightningDataModule.test_dataloader}
    if all(getattr(source.test_dataloader, "__func__", None) in bases for source in sources):
        names = " nor ".join(type(source).__name__ for source in sources)
        raise UserError(
            f"test_after_fit: neither {names} has a test_dataloader. Write one, or give --test_after_fit false."
        )


class _Adopted(Wrapper):
    """A hook of the user's whose loaders are taken over before Lightning sees them."""

    def __init__(self, hook: Callable[[], Any], trainer: Trainer, moved: dict[int, tuple[Tensor, Tensor]]) -> None:
        functools.update_wrapper(self, hook)
        self._hook = hook
        self._trainer = trainer
        self._moved = moved

    def __call__(self) -> Any:
        loaders = self._take_over(self._hook())
        for loader in leaves(loaders):
            if isinstance(loader, Position):
                # Of a stream Lightning fetches a batch before it tells the epoch, where a run goes on between two.
                loader.set_epoch(self._trainer.current_epoch)
                loader.looks_ahead = self._looks_ahead
        if self._hook.__name__ == "train_dataloader":
            hand_back_between_epochs(self._trainer, leaves(loaders))
        return loaders

    def _looks_ahead(self) -> bool:
        return self._trainer.num_training_batches == float("inf")

    def _take_over(self, loader: Any) -> Any:
        if isinstance(loader, CombinedLoader):
            loader.flattened = [self._take_over(each) for each in loader.flattened]
            return loader
        if isinstance(loader, dict):
            return {name: self._take_over(each) for name, each in loader.items()}
        if isinstance(loader, list | tuple):
            return type(loader)(self._take_over(each) for each in loader)
        rank, world_size = self._trainer.global_rank, self._trainer.world_size
        keep_order = bool(getattr(self._trainer, "overfit_batches", 0))
        if isinstance(loader, Placeable):
            loader.place(self._move, rank, world_size, keep_order)
        elif isinstance(loader, DataLoader) and isinstance(loader.dataset, IterableDataset):
            return take_over(loader, rank, world_size)
        elif isinstance(loader, DataLoader):
            return MapLoader(loader, rank, world_size, keep_order)
        return loader

    def _move(self, tensor: Tensor) -> Tensor:
        device: torch.device = self._trainer.strategy.root_device
        if id(tensor) not in self._moved:
            self._moved[id(tensor)] = (tensor, tensor.to(device))  # with the first, or its id may come again
        return self._moved[id(tensor)][1]
