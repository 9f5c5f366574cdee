"""summary.json: what a run is and how far it came, in one small file that is read without torch."""

import contextlib
import datetime
import json
import math
import platform
import signal
import sys
import time
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer

from src.engine.errors import UserError, one_line
from src.engine.paths import write_whole
from src.engine.run.console import why_ended
from src.engine.run.failures import add_notes
from src.engine.run.folder import cannot_write, give_back
from src.engine.run.record import add_entry
from src.engine.run.run import RunCallback, metrics_of, stage_of

# Runs with thousands of short epochs do not write each.
EVERY_S = 1.0


class Summary(RunCallback):
    """Writes the record and summary.json: at a run's start, between its epochs and at its end; never within a step.

    A resumed run continues its file: `started` is when it first began, `seconds` is the sum of its parts. Numbers that
    JSON does not know are texts: "NaN", "Infinity".
    """

    def __init__(self) -> None:
        self._values: dict[str, Any] = {}
        self._before = ""  # the file as an earlier part of the run left it
        self._begun_s = self._written_s = 0.0

    @property
    def _path(self) -> Path:
        return self.run.folder / "summary.json"

    def setup(self, trainer: Trainer, module: LightningModule, stage: str) -> None:
        """Tell all processes the folder that rank zero claimed; begin, once for a fit and its test."""
        self.run.folder = Path(trainer.strategy.broadcast(self.run.folder))
        if not trainer.is_global_zero or self._values:
            return
        try:
            git = add_entry(self.run, trainer)["git"] or {}
        except OSError as error:
            give_back(self.run.folder)
            raise cannot_write(self.run.folder, error) from error
        self._begin()
        device = trainer.strategy.root_device
        self._values |= {
            "note": self.run.config.get("note"),
            "source": str(self.run.source) if self.run.source else None,
            "parameters": sum(parameter.numel() for parameter in module.parameters()),
            "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
            "processes": trainer.world_size,
            "commit": git.get("commit"),
            "changes": git.get("changes"),
        }
        self._write("running")
        self._written_s = 0.0  # the first epoch is written at once

    def _begin(self) -> None:
        """Start with what an earlier part of the run left; a test of its weights says nothing of those to come."""
        self._values = {"verb": self.run.verb, "started": _now(), "seconds": 0.0, "metrics": {}}
        with contextlib.suppress(OSError, ValueError):  # there is none, or it is broken
            self._before = self._path.read_text(encoding="utf-8")
            self._values |= json.loads(self._before)
        kept = {name: value for name, value in self._values["metrics"].items() if stage_of(name) != "test"}
        self._values |= {"metrics": kept, "reason": None}
        self._begun_s = time.monotonic() - self._values["seconds"]

    def on_train_start(self, trainer: Trainer, module: LightningModule) -> None:
        self.run.first_step = trainer.global_step

    def on_train_epoch_start(self, trainer: Trainer, module: LightningModule) -> None:
        """Write the epoch before: only now are its numbers complete."""
        if trainer.global_step:
            self._update(trainer)

    def on_validation_end(self, trainer: Trainer, module: LightningModule) -> None:
        """An epoch may last for days."""
        if trainer.state.fn == "fit" and not (trainer.sanity_checking or trainer.is_last_batch):
            self._update(trainer)

    def teardown(self, trainer: Trainer, module: LightningModule, stage: str) -> None:
        """Write that the verb is done; a fit that is to be tested is still running."""
        if stage == "fit":
            self._values["reason"] = why_ended(trainer, self.run.first_step)
        self._update(trainer, "running" if stage == "fit" and self.run.config.get("test_after_fit") else "finished")

    def on_exception(self, trainer: Trainer, module: LightningModule, exception: BaseException) -> None:
        """Write what ended the run, perhaps before it began; the device is not asked, it may be what failed."""
        if isinstance(exception, Exception):
            add_notes(exception, self.run, trainer, module)
        if not trainer.is_global_zero or not self.run.folder.is_dir():
            return
        if not self._values:
            self._begin()
        elif trainer.state.fn == "fit" and self.run.first_step is not None:
            self._values |= {"epochs": trainer.current_epoch, "steps": trainer.global_step}
        idle = self.run.first_step in (None, trainer.global_step)
        if isinstance(exception, UserError) and idle and self._before:
            self._write_text(self._before)  # a refused resume changed nothing
            return
        state, self._values["reason"] = how_it_ended(exception)
        self._write(state)

    def _update(self, trainer: Trainer, state: str = "running") -> None:
        """Take the newest numbers and write them; while it runs, not too often."""
        if not trainer.is_global_zero:
            return
        self._values["metrics"] |= {name: _plain(value) for name, value in metrics_of(trainer).items()}
        if trainer.state.fn == "fit":
            self._values |= {"epochs": trainer.current_epoch, "steps": trainer.global_step}
            self._values |= {"monitor": self.run.monitor, "best": _plain(self.run.best_score)}
        if state != "running" or time.monotonic() - self._written_s > EVERY_S:
            self._write(state)

    def _write(self, state: str) -> None:
        self._written_s = time.monotonic()
        seconds = round(self._written_s - self._begun_s, 3)
        self._values |= {"state": state, "updated": _now(), "host": platform.node(), "seconds": seconds}
        self._write_text(json.dumps(self._values, indent=1) + "\n")

    def _write_text(self, text: str) -> None:
        try:
            with write_whole(self._path) as part:
                part.write_text(text, encoding="utf-8")
        except OSError as error:  # the run matters more than its summary
            print(f"warning: cannot write {self._path}: {error.strerror}", file=sys.stderr, flush=True)


def how_it_ended(exception: BaseException) -> tuple[str, str]:
    """Return whether a run was `stopped` from outside or `failed`, and by what, in a line."""
    if isinstance(exception, KeyboardInterrupt):
        return "stopped", "SIGINT"
    if isinstance(exception, SystemExit):
        signals = {128 + number: number.name for number in signal.Signals}
        return ("stopped", signals[exception.code]) if exception.code in signals else ("failed", f"exit {exception}")
    name = "" if isinstance(exception, UserError) else f"{type(exception).__name__}: "
    return "failed", f"{name}{one_line(exception)[:300]}".removesuffix(": ")


def _plain(value: float | None) -> float | str | None:
    """Return a number as JSON has it."""
    if value is None or math.isfinite(value):
        return value
    return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds")
