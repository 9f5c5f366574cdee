"""Print errors and warnings: one line for a user's mistake or a warning, the traceback and what went in for a bug."""

import errno
import logging
import os
import re
import traceback
import warnings
from pathlib import Path

import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import LightningModule, Trainer

from src.engine.data.batches import describe
from src.engine.errors import UserError, one_line
from src.engine.paths import pasted
from src.engine.run.run import Run

# Errors of libraries whose message says it all.
READ_WELL = (UserError, MisconfigurationException)
# Warnings that tell a user nothing, by the start of their text.
IDLE_WARNINGS = (
    # Lightning on torch's pytree. Lightning issue 21326, closed with a filter for Lightning's own tests.
    r"`isinstance\(treespec, LeafSpec\)` is deprecated",
    # It complains of the default of its own option.
    r"The number of training batches .* is smaller than the logging interval",
)
_shown: set[str] = set()


def quiet() -> None:
    """Leave out what Lightning reports of its own workings, and show each warning once, in a line."""
    warnings.formatwarning = in_one_line
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
    for text in IDLE_WARNINGS:
        warnings.filterwarnings("ignore", text)


def in_one_line(message: Warning | str, category: type, filename: str, lineno: int, line: str | None = None) -> str:
    """Format a warning: "note: matplotlib: ..." of a package, "note: ... (net.py:12)" of yours; nothing a second time.

    The same words with other numbers, as for each fold, count as the same warning of a package. Only rank zero shows
    it.
    """
    text = " ".join(re.sub(r"\(Triggered internally at .*?\)", "", str(message)).split())
    package = re.search(r"(?:site|dist)-packages[/\\](\w+)", filename)
    said = f"{package[1]}: {text}" if package else f"{text} ({Path(filename).name}:{lineno})"
    key = re.sub(r"\d+", "0", said) if package else said
    if key in _shown or (package and os.environ.get("LOCAL_RANK", "0") != "0"):
        return ""
    _shown.add(key)
    return f"note: {said}\n"


def explained(error: BaseException) -> str:
    """Return the line to print in place of a traceback; nothing for an error in a user's own code."""
    if isinstance(error, READ_WELL):
        return one_line(error)
    if isinstance(error, torch.distributed.DistError) or "gloo/transport" in str(error):  # gloo has no class for it
        return "Another process of this run ended first: its own error says why, or it was killed (out of memory?)."
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return f"{error.filename or 'A file of the run'}: {error.strerror}. Make room there, then resume the run."
    modules = [frame.f_globals.get("__name__", "") for frame, _ in traceback.walk_tb(error.__traceback__)]
    # Lightning, DDP and `load_state_dict` reject so what does not fit. No user's code ran below the first frame.
    places = ("lightning.", "torch.nn.parallel.", "torch.nn.modules.module")
    rejected = isinstance(error, ValueError | RuntimeError | AttributeError) and modules[-1].startswith(places)
    ours = (modules[0], "src.engine.", "lightning.", "torch.", "jsonargparse", "contextlib")
    return one_line(error) if rejected and all(name.startswith(ours) for name in modules) else ""


def add_notes(error: BaseException, run: Run, trainer: Trainer, module: LightningModule) -> None:
    """Add below the traceback of an error: net, loss and the batch's shapes, where the run lies, how to resume it."""
    if run.first_step is not None and trainer.is_global_zero:  # it trained
        way = f"resume with: python -m src fit --ckpt_path {pasted(run.folder)}"
        error.add_note(f"run {pasted(run.folder)}; {way if run.last.exists() else 'nothing was saved'}")
    for frame, _ in traceback.walk_tb(error.__traceback__) if not explained(error) else ():
        # In these functions of Lightning's loops there may be a batch that is done.
        is_step = frame.f_code.co_name not in ("run", "__iter__", "__next__")
        in_loop = frame.f_globals.get("__name__", "").startswith("lightning.pytorch.loops.")
        if is_step and in_loop and (batch := frame.f_locals.get("batch")) is not None:
            known = [(name, getattr(module, name, None)) for name in ("net", "loss")]
            parts = [f"{name} {type(part).__name__}" for name, part in known if isinstance(part, torch.nn.Module)]
            error.add_note(f"{', '.join(parts or [type(module).__name__])}; the batch was {describe(batch)}")
            return
