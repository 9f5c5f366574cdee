"""What a run says when it fails: a user's mistake in one line, anything else with its traceback and what went in."""

import os
import re
import traceback
from inspect import signature
from typing import Any

import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import LightningModule, Trainer

from src.engine.data.batches import describe
from src.engine.errors import UserError, one_line
from src.engine.paths import pasted
from src.engine.processes import leave_if_another_was_lost
from src.engine.run.run import RunCallback

# Errors of libraries whose message says it all.
READ_WELL = (UserError, MisconfigurationException)

# What a library says of a run in many lines, by a word of it, and what to do; nothing where its own words do.
IN_OTHER_WORDS = {
    "Early stopping conditioned on metric": "",
    "find_unused_parameters": "Some parameters got no gradient in a step, which DDP does not expect. Set "
    "--trainer.strategy ddp_find_unused_parameters_true, or let the loss use them.",
    "different number of parameter groups": "The run's optimizer has other groups of parameters than model.groups now "
    "says. Leave model.groups as it was, or begin a new run from the weights (--transfer.weights).",
    "When using the learning rate finder": "LearningRateFinder wants a module with an attribute `lr`. To find the rate "
    "of any optimizer: --config configs/debug/lr_range.yaml.",
    "'LitModule' object has no attribute 'backbone'": "BackboneFinetuning wants a module with an attribute `backbone`. "
    "To freeze a part of any net: --config configs/callbacks/freeze.yaml.",
}


# What a module that was written for Lightning's default logger asks it for.
OF_LOGGERS = ("experiment", "log_metrics", "log_hyperparams", "log_image", "log_table", "log_graph", "log_dir")
NO_LOGGER = (
    "self.logger is None: no tracker is on. Give --track.tensorboard true, another tracker, or a --trainer.logger; "
    "numbers of self.log are in metrics.csv without one."
)


def raised_by_lightning(error: BaseException) -> bool:
    """Whether Lightning rejected a value by itself: between the command line and the error no user's code ran."""
    if not isinstance(error, ValueError):
        return False
    names = [frame.f_globals.get("__name__", "") for frame, _ in traceback.walk_tb(error.__traceback__)]
    ours = (names[0], "src.engine.", "lightning.", "jsonargparse", "contextlib")  # the first is who caught it
    return names[-1].startswith("lightning.") and all(name.startswith(ours) for name in names)


def options_named_in(text: str) -> str:
    """Name the options of the trainer that a message of Lightning's is about; nothing where it names none."""
    words = re.findall(r"\w+", text)
    named = [f"--trainer.{name}" for name in signature(Trainer.__init__).parameters if len(name) > 8 and name in words]
    return f" See {', '.join(named)}." if named and "--trainer." not in text else ""


def explained(error: BaseException) -> str:
    """What to say in a line in place of a traceback; nothing of an error in a user's own code."""
    if raised_by_lightning(error) and not isinstance(error, UserError):
        return f"{one_line(error)}{options_named_in(str(error))}"
    told = [advice or one_line(error) for word, advice in IN_OTHER_WORDS.items() if word in str(error)]
    if told or not isinstance(error, READ_WELL):
        return told[0] if told else ""
    return one_line(error) + ("" if isinstance(error, UserError) else options_named_in(str(error)))


def devices_here() -> str:
    """In words: "2 CUDA devices (NVIDIA H200), no MPS device, 16 CPU cores"."""
    number = torch.cuda.device_count()
    cuda = f"{number} CUDA device{'s' * (number > 1)} ({torch.cuda.get_device_name(0)})" if number else "no CUDA device"
    mps = "an MPS device" if torch.mps.is_available() else "no MPS device"
    return f"{cuda}, {mps}, {os.cpu_count()} CPU cores"


class Errors(RunCallback):
    """Adds below the traceback of an error within a step what went in: net, loss, and the shapes of that batch.

    Of several processes only the one that failed speaks.
    """

    def __init__(self) -> None:
        self._batch: Any = None
        self._stepped = False

    def on_train_start(self, trainer: Trainer, module: LightningModule) -> None:
        """Refuse before the first step what Lightning refuses within it."""
        fused = any(group.get("fused") for optimizer in trainer.optimizers for group in optimizer.param_groups)
        if fused and trainer.gradient_clip_val and "mixed" in str(trainer.precision):
            raise UserError(
                f"A fused optimizer cannot clip gradients (gradient_clip_val={trainer.gradient_clip_val}) in "
                f"{trainer.precision}. Set --model.optimizer.fused false."
            )

    def _say_how_to_go_on(self, trainer: Trainer, exception: BaseException) -> None:
        """A crash of a fit leaves its traceback in the run's folder, and ends with the way back."""
        if not isinstance(exception, Exception) or self.run.verb != "fit" or not trainer.is_global_zero:
            return
        if not isinstance(exception, READ_WELL) and self.run.folder.is_dir():
            text = "".join(traceback.format_exception(exception))
            (self.run.folder / "traceback.txt").write_text(text, encoding="utf-8", errors="backslashreplace")
        if self._stepped:
            way = f"go on with: python -m src fit --ckpt_path {pasted(self.run.folder)}"
            exception.add_note(
                f"run {pasted(self.run.folder)}; {way if self.run.last.exists() else 'nothing was saved'}"
            )

    def on_train_batch_start(self, trainer: Trainer, module: LightningModule, batch: Any, batch_idx: int) -> None:
        self._batch = batch

    def on_validation_batch_start(self, trainer: Trainer, module: LightningModule, batch: Any, *rest: Any) -> None:
        self._batch = batch

    def on_test_batch_start(self, trainer: Trainer, module: LightningModule, batch: Any, *rest: Any) -> None:
        self._batch = batch

    def on_predict_batch_start(self, trainer: Trainer, module: LightningModule, batch: Any, *rest: Any) -> None:
        self._batch = batch

    def on_train_batch_end(self, *rest: Any) -> None:
        self._batch, self._stepped = None, True

    def on_validation_batch_end(self, *rest: Any) -> None:
        self._batch = None

    def on_test_batch_end(self, *rest: Any) -> None:
        self._batch = None

    def on_predict_batch_end(self, *rest: Any) -> None:
        self._batch = None

    def on_exception(self, trainer: Trainer, module: LightningModule, exception: BaseException) -> None:
        leave_if_another_was_lost(trainer, exception)
        asked = exception.name if isinstance(exception, AttributeError) and "'NoneType'" in str(exception) else None
        if asked in OF_LOGGERS and trainer.logger is None:
            exception.add_note(NO_LOGGER)
        self._say_how_to_go_on(trainer, exception)
        batch, self._batch = self._batch, None
        if batch is None or not isinstance(exception, Exception) or isinstance(exception, READ_WELL):
            return
        known = {name: getattr(module, name, None) for name in ("net", "loss")}
        parts = [f"{name} {type(part).__name__}" for name, part in known.items() if isinstance(part, torch.nn.Module)]
        exception.add_note(f"{', '.join(parts or [type(module).__name__])}; the batch was {describe(batch)}")
