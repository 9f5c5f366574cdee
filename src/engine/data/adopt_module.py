"""What any LightningModule gets: gradients and logged means over all processes."""

import copy
import functools
from collections.abc import Callable
from typing import Any

from lightning.pytorch import LightningDataModule, LightningModule, Trainer
from lightning.pytorch.trainer.states import TrainerStatus
from torch import Tensor

from src.engine.data.order import Position, is_padding, leaves
from src.engine.lightning_fixes.logs import repair_logs
from src.engine.lightning_fixes.loops import weight_of_the_rest
from src.engine.lightning_fixes.parts import call_own_train
from src.engine.run.run import RunCallback


def adopt_module(trainer: Trainer, module: LightningModule) -> None:
    """Wrap some of its methods, which a subclass may override, and repair what the trainer collects of its logs.

    Args:
        trainer: That will run it.
        module: Any.
    """
    repair_logs(trainer, functools.partial(is_padding, trainer))
    # At once, so that DDP waits for no gradient of a frozen weight; again at the start for a net that is made late.
    call_own_train(module)
    module.on_fit_start = _FitStart(module, "on_fit_start", trainer)  # type: ignore[method-assign]
    module.backward = _Weighed(module, "backward", trainer)  # type: ignore[method-assign]
    for hook in LAST:
        setattr(module, hook, _Last(module, hook, trainer))


class Wrapper:
    """Wraps a method of one object.

    A copy of the object (weight averaging makes one) has a wrapper of the copy's method, with the same trainer.

    Args:
        owner: A module or a data module.
        name: Of the method.
        trainer: That will call it, unless another one runs the owner by then.
    """

    def __init__(self, owner: LightningModule | LightningDataModule, name: str, trainer: Trainer) -> None:
        self.hook: Callable[..., Any] = getattr(owner, name)
        self.owner: Any = owner
        self.name = name
        self._trainer = trainer

    @property
    def __wrapped__(self) -> Any:
        """The method below all wrappers: Lightning looks at its code to see whether somebody wrote it."""
        method = innermost(self)
        return getattr(method, "func", method)

    @property
    def trainer(self) -> Trainer:
        """Whoever runs the owner; before that, the trainer that it was adopted for."""
        try:
            running: Trainer | None = self.owner.trainer
        except RuntimeError:  # of a module without one
            running = None
        return running if running and running.state.status == TrainerStatus.RUNNING else self._trainer

    def __deepcopy__(self, memo: dict[int, Any]) -> "Wrapper":
        made = copy.copy(self)
        memo[id(self)] = made
        made.owner, made.hook = copy.deepcopy((self.owner, self.hook), memo)
        return made


def innermost(method: Any) -> Any:
    """A method without the wrappers around it."""
    while isinstance(method, Wrapper):
        method = method.hook
    return method


def unwrap(owner: LightningModule | LightningDataModule) -> None:
    """Take off the wrappers of an earlier trainer, so that two of them never lie around each other."""
    for name, method in list(vars(owner).items()):
        if isinstance(method, Wrapper):
            vars(owner)[name] = innermost(method)


class _FitStart(Wrapper):
    """`on_fit_start`, before which parts that freeze themselves in `train()` do so."""

    def __call__(self) -> None:
        call_own_train(self.owner)
        self.hook()


# Hooks that Lightning calls after those of all callbacks, and what callbacks of the run do behind them.
LAST = {"on_train_batch_end": "after_train_batch", "on_validation_end": "after_validation"}


class _Last(Wrapper):
    """A hook of `LAST`: what a callback saves before it would lack what the hook changes."""

    def __call__(self, *args: Any) -> None:
        self.hook(*args)
        trainer: Any = self.trainer
        for callback in trainer.callbacks:
            if isinstance(callback, RunCallback):
                getattr(callback, LAST[self.name])(trainer)


class _Weighed(Wrapper):
    """A module's `backward` whose gradients, averaged over processes and accumulated batches, are those of a mean."""

    def __call__(self, loss: Tensor, *args: Any, **kwargs: Any) -> None:
        trainer = self.trainer
        weight = batch_weight(trainer, self.owner) if trainer.world_size > 1 else 1.0
        if trainer.accumulate_grad_batches > 1:
            weight = weight * weight_of_the_rest(trainer)
        self.hook(loss if isinstance(weight, float) and weight == 1.0 else loss * weight, *args, **kwargs)


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
