"""Repairs of Lightning's trainer, module and loaders, and of torch and jsonargparse below them."""

import functools
import os
from contextlib import nullcontext
from typing import Annotated, Any

import lightning.pytorch as pl
import torch
from lightning.fabric.utilities import move_data_to_device
from lightning.pytorch.callbacks import WeightAveraging
from lightning.pytorch.loops import training_epoch_loop
from lightning.pytorch.profilers import PassThroughProfiler
from lightning.pytorch.strategies import Strategy
from lightning.pytorch.utilities.model_helpers import is_overridden
from torch.utils.data import DataLoader

# Python keeps one object for Union[int, float] and Union[float, int], whichever was made first. Where a library makes
# the latter first, a parser turns 1 into 1.0: all batches in place of one. An annotated int is a type of its own.
# Lightning issue 21259, closed.
for part in ("train", "val", "test", "predict"):
    pl.Trainer.__init__.__annotations__[f"limit_{part}_batches"] = Annotated[int, "batches"] | float | None
# Lightning calls them at each step, of each callback and of the module.
STEP_HOOKS = [name for name in dir(pl.Callback) if name.startswith(("on_before_", "on_after_", "on_train_batch_"))]
BATCH_HOOKS = ("on_before_batch_transfer", "transfer_batch_to_device", "on_after_batch_transfer")
NO_PROFILE = nullcontext()
# At each step it reads the signature of `training_step`.
loop: Any = training_epoch_loop
takes: Any = functools.cache(loop.is_param_in_hook_signature)  # of a function: that of an object keeps this alive
loop.is_param_in_hook_signature = lambda fx, *rest, **options: takes(getattr(fx, "__func__", fx), *rest, **options)
# In the test after a fit Lightning would take the weights without their average. No issue known.
averaging: Any = WeightAveraging
load_average = averaging.on_load_checkpoint
averaging.on_load_checkpoint = lambda me, trainer, *rest: trainer.state.fn == "fit" and load_average(me, trainer, *rest)


def quicken_steps(module: Any, trainer: Any) -> None:
    """Spare what Lightning does at each step for hooks that nobody wrote, and for no profile; call it in `setup`."""
    for owner, base in [(module, pl.LightningModule), *((callback, pl.Callback) for callback in trainer.callbacks)]:
        for name in STEP_HOOKS:
            if getattr(getattr(owner, name), "__func__", None) is getattr(base, name):
                setattr(owner, name, None)  # Lightning skips what cannot be called
    vars(module).pop("_call_batch_hook", None)
    if not any(is_overridden(name, owner) for owner in (module, trainer.datamodule) for name in BATCH_HOOKS):
        module._call_batch_hook = _call_batch_hook
    if type(trainer.profiler) is PassThroughProfiler:  # it makes a context for each hook of each step
        vars(trainer.profiler)["profile"] = lambda action_name: NO_PROFILE


def _call_batch_hook(name: str, batch: Any, *places: Any) -> Any:
    return move_data_to_device(batch, places[0]) if name == "transfer_batch_to_device" else batch


class QuickAttributes(pl.LightningModule):
    """Sets one attribute fast: Lightning notes which hook runs 44 times a step, and nn.Module looks for parameters.

    Only this attribute takes the short way: any other may be a property, a parameter or a module.
    """

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "_current_fx_name":
            self.__dict__[name] = value
        else:
            super().__setattr__(name, value)


class EndsWorkers:
    """Lets Lightning end the workers that stay from epoch to epoch when its loop ends, as it does with a DataLoader's.

    It looks for a DataLoader's own iterator, without a public name. The garbage collector would take ten seconds.
    """

    _source: DataLoader[Any]

    _iterator = property(lambda me: me._source._iterator, lambda me, value: setattr(me._source, "_iterator", value))


def spare_the_question_for_a_gpu() -> None:
    """Spare Adam asking at each step whether a GPU is here, where there is none.

    Lightning has torch ask in a way that costs 0.2 ms, for the sake of forked processes (its pull request 15110).
    """
    if not torch.cuda.is_available():
        os.environ["PYTORCH_NVML_BASED_CUDA_CHECK"] = "0"


def writes_a_folder(strategy: Strategy) -> bool:
    """Return whether a strategy writes a checkpoint as a folder with a part for each process."""
    sharded = getattr(strategy, "_state_dict_type", "full") == "sharded"
    return sharded or getattr(strategy, "_save_distributed_checkpoint", False)
