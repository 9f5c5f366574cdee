"""Repairs of Lightning, torch and jsonargparse: what is wrong, where it is reported, and what is done about it.

For each, tests/engine/test_lightning_fixes.py has a test that fails on the day the repair can go. Where no issue is
named, none was found in November 2026.
"""

import logging
import os
import warnings
from contextlib import AbstractContextManager, nullcontext
from typing import Annotated, Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import EMAWeightAveraging
from lightning.pytorch.profilers import PassThroughProfiler
from torch.utils.data import DataLoader

# Python keeps one object for Union[int, float] and Union[float, int], whichever was made first. Lightning makes the
# latter first, and a parser then turns 1 into 1.0: all batches in place of one. An annotated int is a type of its own.
# Lightning issue 21259, closed.
Batches = Annotated[int, "batches"] | float | None


class Trainer(pl.Trainer):
    """See https://lightning.ai/docs/pytorch/stable/common/trainer.html for what the other options do.

    Args:
        limit_train_batches: How much of an epoch to train on: 10 batches, or 0.1 of them.
        limit_val_batches: The same for validation.
        limit_test_batches: The same for the test.
        limit_predict_batches: The same for predict.
        options: Lightning's own.
    """

    def __init__(
        self,
        limit_train_batches: Batches = None,
        limit_val_batches: Batches = None,
        limit_test_batches: Batches = None,
        limit_predict_batches: Batches = None,
        **options: Any,
    ) -> None:
        if options.get("profiler") is None and not options.get("barebones"):
            options["profiler"] = NoProfiler()
        super().__init__(
            limit_train_batches=limit_train_batches,
            limit_val_batches=limit_val_batches,
            limit_test_batches=limit_test_batches,
            limit_predict_batches=limit_predict_batches,
            **options,
        )


NOTHING: AbstractContextManager[None] = nullcontext()


class NoProfiler(PassThroughProfiler):
    """Where nothing is profiled Lightning still makes a context for each hook of each step; this one is made once."""

    def profile(self, action_name: str) -> AbstractContextManager[None]:  # type: ignore[override]
        return NOTHING


class QuickAttributes(pl.LightningModule):
    """Lightning notes in the module which hook runs, 44 times a step; nn.Module looks if it is a parameter."""

    def __setattr__(self, name: str, value: Any) -> None:
        if isinstance(value, str) or (value is None and name in self.__dict__):
            self.__dict__[name] = value
        else:
            super().__setattr__(name, value)


def step_plateau(trainer: pl.Trainer) -> None:
    """Let a ReduceLROnPlateau see an epoch that was resumed: Lightning leaves it out there.

    Call it at the end of a training epoch. Lightning issue 14699, whose repair it is to leave it out.
    """
    if trainer.fit_loop.restarting and trainer.is_last_batch:
        trainer.fit_loop.epoch_loop.update_lr_schedulers("epoch", update_plateau_schedulers=True)


def align_reloads(trainer: pl.Trainer) -> None:
    """Let a resumed run reload its loaders when one that was never stopped does: Lightning counts from the resume.

    Call it when training starts.
    """
    if every := getattr(trainer, "reload_dataloaders_every_n_epochs", 0):
        begun = trainer.current_epoch - trainer.current_epoch % every
        trainer.fit_loop._last_train_dl_reload_epoch = begun
        trainer.fit_loop.epoch_loop.val_loop._last_val_dl_reload_epoch = begun


def double_before_weights(module: pl.LightningModule) -> None:
    """Make the module double, where it is to be: Lightning does so after it has loaded the weights, and rounds them.

    Call it in `on_load_checkpoint`.
    """
    if module.trainer.precision == "64-true":
        module.double()


class EmaAlsoInTheTest(EMAWeightAveraging):
    """In the test that follows a fit Lightning's would load the weights without the average."""

    def on_load_checkpoint(self, trainer: pl.Trainer, module: pl.LightningModule, checkpoint: dict[str, Any]) -> None:
        if trainer.state.fn == "fit":
            super().on_load_checkpoint(trainer, module, checkpoint)


class EndsWorkers:
    """Lets Lightning end the workers that stay from epoch to epoch when its loop ends, as it does with a DataLoader's.

    It looks for a DataLoader's own iterator, and has no public name for it. Left to the garbage collector, torch waits
    ten seconds for two of them.
    """

    _source: DataLoader[Any]

    @property
    def _iterator(self) -> Any:
        return self._source._iterator

    @_iterator.setter
    def _iterator(self, value: None) -> None:
        self._source._iterator = value


def spare_the_question_for_a_gpu() -> None:
    """Adam asks at each step whether a GPU is here.

    Lightning has torch ask in a way that spares a GPU's state in forked processes and costs 0.2 ms (Lightning pull
    request 15110; the cost is not reported as of 2026-11). Where there is no GPU nothing needs to be spared.
    """
    if not torch.cuda.is_available():
        os.environ["PYTORCH_NVML_BASED_CUDA_CHECK"] = "0"


# By the start of their text.
IDLE_WARNINGS = (
    # Lightning on torch's pytree. Lightning issue 21326, closed with a filter for Lightning's own tests.
    r"`isinstance\(treespec, LeafSpec\)` is deprecated",
    # The means are reduced before they are logged, which Lightning cannot see. Lightning issue 20153.
    r"It is recommended to use `self.log\(.*sync_dist=True\)`",
    # It complains of the default of its own option.
    r"The number of training batches .* is smaller than the logging interval",
)


class Quiet:
    """Leaves out what Lightning reports of its own workings, and warnings that a user can do nothing about.

    Args:
        enabled: Turn off to see everything.
    """

    def __init__(self, enabled: bool = True) -> None:
        if enabled:
            for name in ("lightning.pytorch", "lightning.fabric"):
                logging.getLogger(name).setLevel(logging.WARNING)
            for text in IDLE_WARNINGS:
                warnings.filterwarnings("ignore", text)


def settle(loops: dict[str, Any], max_steps: int) -> None:
    """Make the loops of a checkpoint between two epochs say that the next epoch begins with its first batch.

    Left alone, Lightning takes the batches of the finished epoch for those of the next one, and skips it. Lightning
    issue 19617 has a case of it: `max_steps` that end with an epoch.

    Args:
        loops: Of a checkpoint, as Lightning's fit loop puts them in.
        max_steps: The trainer's.
    """
    epochs = loops["epoch_progress"]
    if epochs["total"]["completed"] < epochs["total"]["started"]:
        return
    for counts in epochs.values():
        counts["ready"] = counts["started"]

    def reset(node: dict[str, Any]) -> None:
        for key, value in node.items():
            if key == "current":
                node[key] = dict.fromkeys(value, 0)
            elif isinstance(value, dict) and value is not epochs:
                reset(value)

    reset(loops)
    validation = loops["epoch_loop.val_loop.batch_progress"]
    loops["epoch_loop.batch_progress"]["is_last_batch"] = validation["is_last_batch"] = False
    validation["total"] = dict.fromkeys(validation["total"], 0)
    loops["state_dict"].pop("combined_loader", None)  # a position in the finished epoch
    # With max_steps Lightning restarts each epoch, and its first round trains nothing but is counted as a batch. The
    # same issue.
    if max_steps != -1:
        loops["epoch_loop.state_dict"]["_batches_that_stepped"] -= 1
