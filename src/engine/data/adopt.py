"""Take over what the hooks of modules and data modules return, so that a run on several processes is the run on one.

Lightning rebuilds, shards and wraps only a DataLoader. The loaders that it gets here order, share and resume their
batches by themselves.
"""

import copy
import functools
import sys
from collections.abc import Callable
from typing import Any

import torch
from lightning.pytorch import LightningDataModule, LightningModule, Trainer
from lightning.pytorch.utilities import CombinedLoader
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset

from src.engine.data.loaders import MapLoader, StreamLoader
from src.engine.data.order import Role, RunLoader, batch_weight
from src.engine.data.seeding import STREAMS, draw_all, first_draws, hash_seed, seeded
from src.engine.lightning_fixes.logs import repair_logs
from src.engine.lightning_fixes.loops import FitProgress, hand_back_between_epochs, weight_of_the_rest
from src.engine.lightning_fixes.trainer import quicken_steps

HOOKS = ("train_dataloader", "val_dataloader", "test_dataloader", "predict_dataloader")
# Hooks that Lightning calls after those of all callbacks, and what callbacks may do after them.
LAST = {"on_train_batch_end": "after_train_batch", "on_validation_end": "after_validation"}


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
    validates = trainer.fit_loop.epoch_loop.val_loop
    for loop in (validates, trainer.validate_loop, trainer.test_loop, trainer.predict_loop):
        # Spawned processes need an object that can be pickled.
        loop.run = functools.partial(_run_seeded, seed, loop)  # type: ignore[method-assign]
    take_over = functools.partial(_take_over, {}, [])
    for source in sources:
        vars(source)["run_seed"], source.trainer = seed, trainer
        for hook in ("prepare_data", "setup", *HOOKS):
            Wrapped(source, hook, take_over if hook in HOOKS else _call_seeded)
        if isinstance(source, LightningModule):
            repair_logs(trainer)
            Wrapped(source, "backward", _weigh)
            for hook in LAST:
                Wrapped(source, hook, _call_callbacks_last)


class Wrapped:
    """Takes the place of a method of one object: `act` gets this object, whose `__wrapped__` it calls.

    A copy of the object (weight averaging makes one) has a wrapper of the copy's method.
    """

    def __init__(self, owner: Any, name: str, act: Callable[..., Any]) -> None:
        method = getattr(owner, name)  # one that is wrapped is not wrapped again
        # By this name Lightning finds the code, to see whether somebody wrote it.
        self.__wrapped__: Callable[..., Any] = method.__wrapped__ if isinstance(method, Wrapped) else method
        self.owner, self.name, self._act = owner, name, act
        setattr(owner, name, self)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._act(self, *args, **kwargs)

    def __deepcopy__(self, memo: dict[int, Any]) -> "Wrapped":
        made = memo[id(self)] = copy.copy(self)
        made.owner, made.__wrapped__ = copy.deepcopy((self.owner, self.__wrapped__), memo)
        return made


def _run_seeded(seed: int, loop: Any) -> Any:
    """Let an evaluation draw from the run's seed, apart from training: a later test draws as that of the fit."""
    trainer = loop.trainer  # each process has other rows, and draws other numbers
    with seeded(hash_seed(seed, trainer.state.stage.dataloader_prefix, trainer.global_rank)):
        return type(loop).run(loop)


def _hook_seed(hook: Wrapped) -> int:
    seed: int = hook.owner.run_seed
    if stream := STREAMS.get(hook.name):
        return hash_seed(seed, stream, isinstance(hook.owner, LightningModule))
    # Training loaders that a fit makes again for each epoch may draw new rows for each.
    epoch = FitProgress(hook.owner.trainer).first_epoch() if hook.name == "train_dataloader" else 0
    return hash_seed(seed, epoch) if epoch else seed


def _call_seeded(hook: Wrapped, *args: Any, **kwargs: Any) -> Any:
    if hook.name == "setup":  # every process runs it, and before the loaders' hooks
        vars(hook.owner)["run_seed"] = hook.owner.trainer.strategy.broadcast(hook.owner.run_seed)
        if isinstance(hook.owner, LightningModule):
            quicken_steps(hook.owner, hook.owner.trainer)
    with seeded(_hook_seed(hook)):
        return hook.__wrapped__(*args, **kwargs)


def _take_over(moved: dict[Tensor, Tensor], drew: list[str], hook: Wrapped) -> Any:
    """Take over the loaders that a hook returns, before Lightning sees them; note tensors on the run's device."""
    trainer: Any = hook.owner.trainer
    number = _hook_seed(hook)
    with seeded(number):
        loaders = hook.__wrapped__()
        if draw_all() != first_draws(number) and hook.name not in drew:
            drew.append(hook.name)
            if len(drew) == 2 and trainer.is_global_zero:
                said = "warning: {} and {} draw the same random numbers, so that a split drawn in both is one split."
                print(said.format(*drew), "Samples would be equal: draw those in setup().", file=sys.stderr)
    trains = hook.name == "train_dataloader"
    combined = loaders if isinstance(loaders, CombinedLoader) else CombinedLoader(loaders)
    made: list[Any] = []
    for loader in combined.flattened:
        role = Role(
            seed=hook.owner.run_seed,
            stage=hook.name.partition("_")[0],
            number=len(made),
            rank=trainer.global_rank,
            world_size=trainer.world_size,
            epoch=trainer.current_epoch,  # Lightning fetches a stream's first batch before it tells the epoch
            keep_order=trainer.overfit_batches > 0,
            progress=FitProgress(trainer) if trains else None,
        )
        if isinstance(loader, DataLoader):
            loader = (StreamLoader if isinstance(loader.dataset, IterableDataset) else MapLoader)(loader, role)
        elif isinstance(loader, RunLoader):
            loader = copy.copy(loader)  # one that stands in two hooks serves each
            loader.follow(role)
            new = [tensor for tensor in loader.tensors if tensor not in moved]  # tensors are hashed by identity
            moved.update({tensor: _to_device(tensor, trainer.strategy.root_device) for tensor in new})
            loader.tensors = tuple(moved[tensor] for tensor in loader.tensors)
        made.append(loader)
    combined.flattened = made
    if trains:
        hand_back_between_epochs(trainer, made)
    return combined if combined is loaders else combined.iterables


def _to_device(tensor: Tensor, device: torch.device) -> Tensor:
    lacks_double = device.type == "mps" and tensor.dtype == torch.float64
    return tensor.to(device, torch.float32 if lacks_double else tensor.dtype)


def _weigh(hook: Wrapped, loss: Tensor, *args: Any, **kwargs: Any) -> None:
    """Call `backward` so that gradients, averaged over processes and accumulated batches, are those of a mean."""
    trainer = hook.owner.trainer
    weight = batch_weight(trainer) if trainer.world_size > 1 else 1.0
    if trainer.accumulate_grad_batches > 1:
        weight = weight * weight_of_the_rest(trainer)
    hook.__wrapped__(loss if isinstance(weight, float) and weight == 1.0 else loss * weight, *args, **kwargs)


def _call_callbacks_last(hook: Wrapped, *args: Any) -> None:
    """Call a hook of `LAST`: what a callback saves before it would lack what the hook changes."""
    hook.__wrapped__(*args)
    for callback in hook.owner.trainer.callbacks:
        if act := getattr(callback, LAST[hook.name], None):
            act(hook.owner.trainer)
