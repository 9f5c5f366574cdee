"""Print why a run failed: one line for a user's mistake, else the traceback and below it what went in."""

import traceback
from typing import Any

import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import LightningModule, Trainer

from src.engine.data.batches import describe
from src.engine.errors import UserError, one_line
from src.engine.paths import pasted
from src.engine.processes import lost_another, note_killed_processes
from src.engine.run.run import Run

# Errors of libraries whose message says it all.
READ_WELL = (UserError, MisconfigurationException)
# Users' mistakes that Lightning and torch raise as bugs: words of the message, and what to do if it does not say so.
MISTAKES = {
    "Early stopping conditioned on metric": "",
    "Error(s) in loading state_dict": "",
    "find_unused_parameters": "Some parameters got no gradient in a step, which DDP does not expect. Set "
    "--trainer.strategy ddp_find_unused_parameters_true, or let the loss use them.",
    "'fused' optimizer": "A fused optimizer cannot clip gradients in mixed precision. Set --model.optimizer.fused "
    "false, or leave out --trainer.gradient_clip_val.",
    "callback with `Trainer": "A monitor sends to a tracker, and this run has none. Set --track.tensorboard true (or "
    "--track.wandb, --track.mlflow), or take it out of trainer.callbacks. metrics.csv has the learning rate.",
    "the learning rate finder": "LearningRateFinder needs a module with an attribute `lr`. For any optimizer: --config "
    "configs/debug/lr_range.yaml.",
    "no attribute 'backbone'": "BackboneFinetuning needs a module with an attribute `backbone`. To freeze a part of "
    "any net: --config configs/callbacks/freeze.yaml.",
}
NO_LOGGER = (
    "self.logger is None: no tracker is on. Set --track.tensorboard true, another tracker, or --trainer.logger; "
    "numbers of self.log are in metrics.csv without one."
)


def explained(error: BaseException) -> str:
    """Return the line to print in place of a traceback; nothing for an error in a user's own code."""
    modules = [frame.f_globals.get("__name__", "") for frame, _ in traceback.walk_tb(error.__traceback__)]
    if isinstance(error, UserError):
        return one_line(error)
    if lost_another(error):
        return "Another process of this run ended first; its own error says why."
    if modules[-1].startswith(("lightning.", "torch.")):
        for words, advice in MISTAKES.items():
            if words in str(error):
                return advice or one_line(error)
    # The first is who caught it. Between it and Lightning no user's code ran.
    ours = (modules[0], "src.engine.", "lightning.", "jsonargparse", "contextlib")
    rejected = isinstance(error, ValueError) and modules[-1].startswith("lightning.")
    if isinstance(error, READ_WELL) or (rejected and all(name.startswith(ours) for name in modules)):
        return one_line(error)
    return ""


def add_notes(error: Exception, run: Run, trainer: Trainer, module: LightningModule) -> None:
    """Add below the traceback of an error: net, loss and the batch's shapes, where the run lies, how to resume it."""
    asked = str(error.name) if isinstance(error, AttributeError) and error.obj is None else ""
    if trainer.logger is None and asked.startswith(("experiment", "log_")):
        error.add_note(NO_LOGGER)
    if run.verb == "fit" and run.first_step is not None and trainer.is_global_zero:
        way = f"resume with: python -m src fit --ckpt_path {pasted(run.folder)}"
        error.add_note(f"run {pasted(run.folder)}; {way if run.last.exists() else 'nothing was saved'}")
    batch = _batch_of(error)
    if batch is not None and not isinstance(error, READ_WELL) and not lost_another(error):
        known = {name: getattr(module, name, None) for name in ("net", "loss")}
        parts = [f"{name} {type(part).__name__}" for name, part in known.items() if isinstance(part, torch.nn.Module)]
        error.add_note(f"{', '.join(parts or [type(module).__name__])}; the batch was {describe(batch)}")
    note_killed_processes(trainer, error)


def _batch_of(error: Exception) -> Any:
    """Return the batch of the step that failed, from the frame of Lightning's loop; None between two steps."""
    for frame, _ in traceback.walk_tb(error.__traceback__):
        in_loop = frame.f_globals.get("__name__", "").startswith("lightning.pytorch.loops.")
        # In these there may be a batch that is done.
        if in_loop and frame.f_code.co_name not in ("run", "__iter__", "__next__") and "batch" in frame.f_locals:
            return frame.f_locals["batch"]
    return None
