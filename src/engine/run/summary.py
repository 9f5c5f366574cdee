"""summary.json: what a run is and how far it came, in one small file that is read without torch."""

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
import yaml
from lightning.pytorch import LightningModule, Trainer
from torch.multiprocessing import ProcessExitedException, ProcessRaisedException

from src.engine.errors import UserError, one_line
from src.engine.run.ending import why_ended
from src.engine.run.run import Run, metrics_of, stage_of

# Of runs with thousands of short epochs not each is worth a file.
EVERY_S = 1.0


class Summary:
    """Written at a run's start, between its epochs and at its end, whole or not at all; nothing is done in a step.

    A run that goes on continues its file: `started` is when it first began, `seconds` is the sum of its parts. Numbers
    that JSON does not know are texts: "NaN", "Infinity". Rank zero writes; the others call the same methods.

    Args:
        run: Whose it is.
    """

    def __init__(self, run: Run) -> None:
        self._run = run
        self._values: dict[str, Any] = {}
        self._begun_s: float | None = None
        self._seconds_before = self._written_s = 0.0
        self._steps_before: int | None = None

    def begin(self, trainer: Trainer, module: LightningModule) -> None:
        """Tell what the run is; once for a fit and its test, and after the command was added to the record."""
        if not trainer.is_global_zero or self._begun_s is not None:
            return
        self._begun_s = time.monotonic()
        self._continue()
        if trainer.state.fn == "fit":  # an earlier test was of other weights
            metrics = self._values["metrics"]
            self._values["metrics"] = {name: value for name, value in metrics.items() if stage_of(name) != "test"}
        device = trainer.strategy.root_device
        name = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
        self._values |= {
            "note": self._run.config.get("note"),
            "source": str(self._run.source) if self._run.source else None,
            "parameters": sum(parameter.numel() for parameter in module.parameters()),
            "device": name,
            "processes": trainer.world_size,
            **_git(self._run.folder / "record.yaml"),
        }
        self._write("running")
        self._written_s = 0.0  # the first epoch is told at once

    def begin_training(self, trainer: Trainer) -> None:
        """Note where the steps begin."""
        self._steps_before = trainer.global_step

    def update(self, trainer: Trainer) -> None:
        """Take up the numbers of an epoch, or of a validation amid it, when they are complete."""
        if not trainer.is_global_zero or not trainer.global_step:
            return
        self._take_up(trainer)
        if time.monotonic() - self._written_s > EVERY_S:
            self._write("running")

    def end(self, trainer: Trainer, stage: str) -> None:
        """Tell that a verb is done; a fit that is to be tested goes on."""
        if not trainer.is_global_zero:
            return
        self._take_up(trainer)
        if stage == "fit":
            self._values["reason"] = why_ended(trainer, self._steps_before)
        tested = stage == "fit" and self._run.config.get("test_after_fit")
        self._write("running" if tested else "finished")

    def fail(self, trainer: Trainer, exception: BaseException) -> None:
        """Tell what ended the run, perhaps before it began; the device is not asked, it may be what failed."""
        if not trainer.is_global_zero or not self._run.folder.is_dir():
            return
        if self._begun_s is None:
            self._continue()
        # Of processes that this one spawned, the one that failed has told.
        told = self._values.get("state", "running") != "running"
        if told and isinstance(exception, ProcessRaisedException | ProcessExitedException):
            return
        if trainer.state.fn == "fit" and self._begun_s is not None:
            self._values |= {"epochs": trainer.current_epoch, "steps": trainer.global_step}
        state, self._values["reason"] = how_it_ended(exception)
        self._write(state)

    def _continue(self) -> None:
        """Begin with what an earlier part of the run left, or an earlier process."""
        first: dict[str, Any] = {"verb": self._run.verb, "started": _now(), "seconds": 0.0, "metrics": {}}
        path = self._run.folder / "summary.json"
        try:
            before = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
            self._seconds_before = float(before.get("seconds", 0.0))
            before["metrics"] = dict(before.get("metrics", {}))
        except (OSError, ValueError, AttributeError, TypeError):  # not ours, or broken by hand: written anew
            before = {}
        self._values = first | before | {"reason": None}

    def _take_up(self, trainer: Trainer) -> None:
        metrics = {name: plain(value) for name, value in metrics_of(trainer).items()}
        self._values["metrics"] = self._values.get("metrics", {}) | metrics
        if trainer.state.fn == "fit":
            self._values |= {"epochs": trainer.current_epoch, "steps": trainer.global_step}
            self._values |= {"monitor": self._run.monitor, "best": plain(self._run.best_score)}

    def _write(self, state: str) -> None:
        now_s = time.monotonic()
        self._written_s = now_s
        self._values["seconds"] = round(self._seconds_before + now_s - (self._begun_s or now_s), 3)
        path = self._run.folder / "summary.json"
        try:
            self._values |= {"state": state, "updated": _now(), "host": platform.node()}
            path.with_suffix(".part").write_text(json.dumps(self._values, indent=1) + "\n", encoding="utf-8")
            _replace(path.with_suffix(".part"), path)
        except OSError as error:  # the run matters more than what is told of it
            path.with_suffix(".part").unlink(missing_ok=True)
            print(f"warning: cannot write {path}: {error.strerror}", file=sys.stderr, flush=True)


def how_it_ended(exception: BaseException) -> tuple[str, str]:
    """Whether a run was `stopped` from outside or `failed`, and by what, in a line."""
    if isinstance(exception, KeyboardInterrupt):
        return "stopped", "SIGINT"
    if isinstance(exception, SystemExit):
        signals = {128 + number: number.name for number in signal.Signals}
        return ("stopped", signals[exception.code]) if exception.code in signals else ("failed", f"exit {exception}")
    if isinstance(exception, ProcessRaisedException):  # a traceback of another process
        return "failed", str(exception).strip().rpartition("\n")[2]
    told = one_line(exception)[:300]
    name = type(exception).__name__
    return "failed", told if isinstance(exception, UserError) else f"{name}: {told}" if told else name


def plain(value: float | None) -> float | str | None:
    """A number as JSON has it."""
    if value is None or math.isfinite(value):
        return value
    return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"


def _git(record: Path) -> dict[str, Any]:
    """The commit that the record's last entry names, and whether files were changed since."""
    entries = yaml.load(record.read_text(encoding="utf-8"), getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    git = entries[-1]["git"] or {"commit": None, "changes": None}
    return {"commit": git["commit"], "changes": git["changes"]}


def _replace(part: Path, path: Path) -> None:
    for attempt in range(5):
        try:
            part.replace(path)
            return
        except PermissionError:  # on Windows, while somebody reads it
            if attempt == 4:
                raise
            time.sleep(0.02)


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds")
