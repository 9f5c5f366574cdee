"""Repairs of Lightning and torch: what is wrong, and what is done about it. Each has a test that tells when it can go."""

import logging
import os
import warnings
from contextlib import AbstractContextManager, nullcontext
from typing import Annotated, Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import EMAWeightAveraging
from lightning.pytorch.profilers import PassThroughProfiler

# Python keeps one object for Union[int, float] and Union[float, int], whichever was made first, and where that is the
# latter a parser turns 1 into 1.0: all batches in place of one. An annotated int is a type of its own.
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
    """Where nothing is profiled Lightning still makes a context some 100 times a step; this one is made once."""

    def profile(self, action_name: str) -> AbstractContextManager[None]:  # type: ignore[override]
        return NOTHING


class QuickAttributes(pl.LightningModule):
    """Lightning notes in the module which hook runs, 44 times a step; nn.Module would look each time if it is a parameter."""

    def __setattr__(self, name: str, value: Any) -> None:
        if isinstance(value, str) or (value is None and name in self.__dict__):
            self.__dict__[name] = value
        else:
            super().__setattr__(name, value)


def step_plateau(trainer: pl.Trainer) -> None:
    """Let a ReduceLROnPlateau see an epoch that was resumed: Lightning leaves it out there.

    Call it at the end of a training epoch.
    """
    if trainer.fit_loop.restarting and trainer.is_last_batch:
        trainer.fit_loop.epoch_loop.update_lr_schedulers("epoch", update_plateau_schedulers=True)


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


def spare_the_question_for_a_gpu() -> None:
    """Adam asks at each step whether a GPU is here.

    Lightning has torch ask in a way that spares a GPU's state in forked processes and costs 0.2 ms; where there is no
    GPU nothing needs to be spared.
    """
    if not torch.cuda.is_available():
        os.environ["PYTORCH_NVML_BASED_CUDA_CHECK"] = "0"


# By the start of their text.
IDLE_WARNINGS = (
    r"`isinstance\(treespec, LeafSpec\)` is deprecated",  # Lightning on torch's pytree
    r"It is recommended to use `self.log\(.*sync_dist=True\)`",  # the means are reduced before they are logged
    r"The number of training batches .* is smaller than the logging interval",  # the default of a Lightning option
    r"'set_vital' is deprecated",  # torchdata on torch
    r"Lightning couldn't infer the indices fetched",  # predictions are ordered by rank
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

    Left alone, Lightning takes the batches of the finished epoch for those of the next one, and skips it.

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
    # With max_steps Lightning restarts each epoch and counts one batch too many.
    if max_steps != -1:
        loops["epoch_loop.state_dict"]["_batches_that_stepped"] -= 1
