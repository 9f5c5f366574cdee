"""Takes over whatever loaders the user's hooks return: each then orders, shares and resumes its batches by itself.

Lightning rebuilds, shards and wraps only a DataLoader: what it gets here is none.
"""

import copy
import sys
from collections.abc import Callable
from typing import Any, Protocol, runtime_checkable

import torch
from lightning.pytorch import LightningDataModule, LightningModule, Trainer
from lightning.pytorch.utilities import CombinedLoader
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset

from src.engine.data.adopt_module import Wrapper, adopt_module, unwrap
from src.engine.data.map_loader import MapLoader
from src.engine.data.order import RunLoader, RunSeed, leaves, mix
from src.engine.data.seeds import STREAMS, has_drawn, seed_evaluation, seeded
from src.engine.data.stream_loader import take_over
from src.engine.errors import UserError
from src.engine.lightning_fixes.loops import FitProgress, hand_back_between_epochs

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


def adopt(trainer: Trainer, *sources: LightningModule | LightningDataModule, seed: int | None = None) -> None:
    """Take over the loaders that some hooks return, and what modules log; in Python, call it before `trainer.fit`.

    Args:
        trainer: That will call the hooks.
        sources: Modules and data modules with `train_dataloader` and the like.
        seed: What the hooks draw from. By default the one of the run that a module was loaded from, or of an earlier
            call; else the one that the process was seeded with.
    """
    kept = [vars(source)["run_seed"] for source in sources if "run_seed" in vars(source)]
    seed = seed if seed is not None else kept[0] if kept else torch.initial_seed()
    run_seed = RunSeed(trainer, seed)
    seed_evaluation(trainer, run_seed)
    moved: dict[int, tuple[Tensor, Tensor]] = {}
    drew: list[str] = []
    for source in sources:
        unwrap(source)
        vars(source)["run_seed"] = seed
        for hook in ("prepare_data", "setup"):
            setattr(source, hook, SeededHook(source, hook, trainer, run_seed))
        for hook in HOOKS:
            setattr(source, hook, _Adopted(source, hook, trainer, run_seed, moved, drew))
        if isinstance(source, LightningModule):
            adopt_module(trainer, source)
            for hook, act in (("on_save_checkpoint", run_seed.save), ("on_load_checkpoint", run_seed.load)):
                setattr(source, hook, _KeepsSeed(source, hook, trainer, act))


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


class _KeepsSeed(Wrapper):
    """A module's hook for a checkpoint, which has the seed of the run, too."""

    def __init__(self, owner: LightningModule, name: str, trainer: Trainer, act: Callable[..., None]) -> None:
        super().__init__(owner, name, trainer)
        self._act = act

    def __call__(self, checkpoint: dict[str, Any]) -> None:
        self._act(checkpoint)
        self.hook(checkpoint)


class SeededHook(Wrapper):
    """A hook of the user's that draws from the run's seed.

    Args:
        source: Whose it is.
        name: `prepare_data`, `setup`, or of one that returns loaders.
        trainer: That calls it.
        seed: Of the run.
    """

    def __init__(
        self, source: LightningModule | LightningDataModule, name: str, trainer: Trainer, seed: RunSeed
    ) -> None:
        super().__init__(source, name, trainer)
        self._seed = seed
        self._of_module = isinstance(source, LightningModule)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        with seeded(self._number()):
            return self.hook(*args, **kwargs)

    def _number(self) -> int:
        # `prepare_data` runs on one process of several.
        seed = self._seed.own if self.name == "prepare_data" else self._seed.value
        if stream := STREAMS.get(self.name):
            return mix(seed, stream, self._of_module)
        # Training loaders that a fit makes again for each epoch may draw new rows for each.
        every = getattr(self.trainer, "reload_dataloaders_every_n_epochs", 0)
        epoch = self.trainer.current_epoch // every * every if every and self.name == "train_dataloader" else 0
        return mix(seed, epoch) if epoch else seed


class _Adopted(SeededHook):
    """A hook of the user's whose loaders are taken over before Lightning sees them."""

    def __init__(
        self,
        source: LightningModule | LightningDataModule,
        name: str,
        trainer: Trainer,
        seed: RunSeed,
        moved: dict[int, tuple[Tensor, Tensor]],
        drew: list[str],
    ) -> None:
        super().__init__(source, name, trainer, seed)
        self._moved = moved
        self._drew = drew

    def __call__(self) -> Any:
        number = self._number()
        with seeded(number):
            loaders = self.hook()
            if has_drawn(number):
                self._warn_of_equal_numbers()
            loaders = self._take_over(loaders)
        stage, fits = self.name.partition("_")[0], self.name == "train_dataloader"
        for place, loader in enumerate(leaves(loaders)):
            if isinstance(loader, RunLoader):
                loader.follow(self._seed, stage, place, FitProgress(self.trainer) if fits else None)
                # Of a stream Lightning fetches a batch before it tells the epoch, where a run goes on between two.
                loader.set_epoch(self.trainer.current_epoch)
        if fits:
            hand_back_between_epochs(self.trainer, leaves(loaders))
        return loaders

    def _warn_of_equal_numbers(self) -> None:
        if self.name in self._drew:
            return
        self._drew.append(self.name)
        if len(self._drew) == 2 and self.trainer.is_global_zero:
            print(
                f"warning: {' and '.join(self._drew)} draw the same random numbers, so that a split drawn in both is "
                "one split. Draw samples in setup(): here the first ones would be equal.",
                file=sys.stderr,
            )

    def _take_over(self, loader: Any) -> Any:
        if isinstance(loader, CombinedLoader):
            loader.flattened = [self._take_over(each) for each in loader.flattened]
            return loader
        if isinstance(loader, dict):
            return {name: self._take_over(each) for name, each in loader.items()}
        if isinstance(loader, list | tuple):
            return type(loader)(self._take_over(each) for each in loader)
        rank, world_size = self.trainer.global_rank, self.trainer.world_size
        keep_order = bool(getattr(self.trainer, "overfit_batches", 0))
        if isinstance(loader, Placeable):
            loader = copy.copy(loader)  # one that stands in two hooks has a place in each
            loader.place(self._move, rank, world_size, keep_order)
        elif isinstance(loader, DataLoader) and isinstance(loader.dataset, IterableDataset):
            return take_over(loader, rank, world_size)
        elif isinstance(loader, DataLoader):
            return MapLoader(loader, rank, world_size, keep_order)
        return loader

    def _move(self, tensor: Tensor) -> Tensor:
        device: torch.device = self.trainer.strategy.root_device
        if id(tensor) not in self._moved:
            self._moved[id(tensor)] = (tensor, tensor.to(device))  # with the first, or its id may come again
        return self._moved[id(tensor)][1]
