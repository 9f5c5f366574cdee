"""Record a run: how it was made in record.yaml, how far it came in summary.json."""

import contextlib
import datetime
import json
import math
import os
import platform
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
import yaml
from lightning.pytorch import LightningModule, Trainer

from src.engine.errors import UserError, one_line
from src.engine.paths import write_whole
from src.engine.run.console import why_ended
from src.engine.run.failures import add_notes
from src.engine.run.run import Run, RunCallback, metrics_of, stage_of

PROJECT = Path(__file__).parents[3]
# A patch that applies, whatever a user's git is set to.
DIFF = (
    *("diff", "--binary", "--unified=3", "--no-ext-diff", "--no-textconv", "--no-color", "--no-relative"),
    *("--src-prefix=a/", "--dst-prefix=b/", "--submodule=short"),
)
# New files that belong to the program.
NEW = ("*.py", "configs")
# Runs with thousands of short epochs do not write each.
EVERY_S = 1.0


class Summary(RunCallback):
    """Writes the record and summary.json: when a run begins, between its epochs and at its end; never within a step.

    A resumed run continues its files: `started` is when it first began, `seconds` is the sum of its parts. A refused
    resume leaves them as they were. Numbers that JSON does not know are texts: "NaN", "Infinity".
    """

    def __init__(self) -> None:
        self._values: dict[str, Any] = {}
        self._begun_s = self._written_s = 0.0

    @property
    def _path(self) -> Path:
        return self.run.folder / "summary.json"

    def setup(self, trainer: Trainer, module: LightningModule, stage: str) -> None:
        """Send the folder that rank zero claimed to all processes."""
        self.run.folder = Path(trainer.strategy.broadcast(self.run.folder))

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin, in a new fit with the sanity check."""
        self._begin(trainer)

    on_test_start = on_predict_start = on_validation_start

    def on_train_start(self, trainer: Trainer, module: LightningModule) -> None:
        self.run.first_step = trainer.global_step

    def on_train_epoch_start(self, trainer: Trainer, module: LightningModule) -> None:
        """Write the epoch before: only now are its numbers complete."""
        self._begin(trainer)
        if trainer.global_step:
            self._update(trainer)

    def on_validation_end(self, trainer: Trainer, module: LightningModule) -> None:
        """Write within an epoch, too: it may last for days."""
        if trainer.state.fn == "fit" and not (trainer.sanity_checking or trainer.is_last_batch):
            self._update(trainer)

    def teardown(self, trainer: Trainer, module: LightningModule, stage: str) -> None:
        """Write that the verb is done; a fit that is to be tested is still running."""
        self._begin(trainer)
        if stage == "fit":
            self._values["reason"] = why_ended(trainer, self.run.first_step)
        self._update(trainer, "running" if stage == "fit" and self.run.config.get("test_after_fit") else "finished")

    def on_exception(self, trainer: Trainer, module: LightningModule, exception: BaseException) -> None:
        """Write what ended the run; the device is not asked, it may be what failed."""
        if isinstance(exception, Exception):
            add_notes(exception, self.run, trainer, module)
        if not trainer.is_global_zero or not self.run.folder.is_dir():
            return
        if not self._values:
            if self._path.exists():
                return  # a refused resume changed nothing
            self._values = self._earlier()
        elif trainer.state.fn == "fit" and self.run.first_step is not None:
            self._values |= {"epochs": trainer.current_epoch, "steps": trainer.global_step}
        state, self._values["reason"] = how_it_ended(exception)
        self._write(state)

    def _begin(self, trainer: Trainer) -> None:
        """Write the record and the first summary, once for a fit and its test."""
        if self._values or not trainer.is_global_zero:
            return
        entry = add_entry(self.run, trainer)
        git = entry["git"] or {}
        self._values = self._earlier() | {
            "note": self.run.config.get("note"),
            "source": str(self.run.source) if self.run.source else None,
            "parameters": sum(parameter.numel() for parameter in trainer.lightning_module.parameters()),
            "device": entry["device"],
            "processes": entry["processes"],
            "commit": git.get("commit"),
            "changes": git.get("changes"),
        }
        self._write("running")
        self._written_s = 0.0  # the first epoch is written at once

    def _earlier(self) -> dict[str, Any]:
        """Return what an earlier part of the run left, without a test of its weights."""
        values: dict[str, Any] = {"verb": self.run.verb, "started": _now(), "seconds": 0.0, "metrics": {}}
        with contextlib.suppress(OSError, ValueError):  # there is none, or it is broken
            values |= json.loads(self._path.read_text(encoding="utf-8"))
        kept = {name: value for name, value in values["metrics"].items() if stage_of(name) != "test"}
        self._begun_s = time.monotonic() - values["seconds"]
        return values | {"metrics": kept, "reason": None}

    def _update(self, trainer: Trainer, state: str = "running") -> None:
        """Store the newest numbers; while the run lasts, write them at most once a second."""
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
        try:
            with write_whole(self._path) as part:
                part.write_text(json.dumps(self._values, indent=1) + "\n", encoding="utf-8")
        except OSError as error:  # the run matters more than its summary
            print(f"warning: cannot write {self._path}: {error.strerror}", file=sys.stderr, flush=True)


def how_it_ended(exception: BaseException) -> tuple[str, str]:
    """Return whether a run was `stopped` by a signal or `failed`, and by what, in a line."""
    code = 128 + signal.SIGINT if isinstance(exception, KeyboardInterrupt) else getattr(exception, "code", None)
    if isinstance(exception, KeyboardInterrupt | SystemExit) and isinstance(code, int) and code > 128:
        return "stopped", signal.Signals(code - 128).name
    name = "" if isinstance(exception, UserError) else f"{type(exception).__name__}: "
    return "failed", f"{name}{one_line(exception)[:300]}".removesuffix(": ")


def add_entry(run: Run, trainer: Trainer) -> dict[str, Any]:
    """Add an entry to `record.yaml` in the run's folder, one for each command that worked on the run.

    An entry holds the command, the time, the git commit with the changes since (a patch, with new Python files and new
    files of configs), the packages (a file that pip can read), the device, the config of a resume where it differs from
    config.yaml, and the checksums of the data where the data module has a method `checksums()`.
    """
    path = run.folder / "record.yaml"
    entries = yaml.safe_load(path.read_text(encoding="utf-8")) if path.exists() else []
    packages = run.folder / f"packages-{len(entries)}.txt"
    packages.write_text(_installed(), encoding="utf-8")
    device = trainer.strategy.root_device
    entry: dict[str, Any] = {
        "command": shlex.join(sys.orig_argv),
        "folder": str(Path.cwd()),
        "time": _now(),
        "git": _git(run.folder / f"changes-{len(entries)}.patch"),
        "python": platform.python_version(),
        "packages": packages.name,
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        "processes": trainer.world_size,
        "machine": platform.platform(),
    }
    if checksums := getattr(getattr(trainer, "datamodule", None), "checksums", None):
        entry["data"] = checksums()
    if entries and run.config != yaml.safe_load((run.folder / "config.yaml").read_text(encoding="utf-8")):
        entry["config"] = run.config
    with write_whole(path) as part:
        part.write_text(yaml.safe_dump([*entries, entry], sort_keys=False, width=1000), encoding="utf-8")
    return entry


def _installed() -> str:
    """Return a line for each installed package, by the names of their folders: reading their metadata takes 0.2 s."""
    found = {}
    for place in reversed(sys.path):  # of two by one name Python imports the first
        for folder in Path(place).glob("*.dist-info"):
            name, _, version = folder.stem.partition("-")
            found[name] = version
    return "".join(f"{name}=={version}\n" for name, version in sorted(found.items()))


def _git(patch: Path) -> dict[str, Any] | None:
    """Write what changed since the commit; return the commit and the patch's name, None without a repository."""
    if not (found := _run_git("rev-parse", "HEAD", "--git-path", "index")):
        return None
    commit, index = os.fsdecode(found).splitlines()
    with tempfile.TemporaryDirectory() as place:
        # A copy of the index names new files; git's own stays as it is.
        copy = Path(place, "index")
        shutil.copy2(PROJECT / index, copy)  # with its time, by which git knows what changed since
        for files in NEW:
            _run_git("add", "--intent-to-add", "--", files, ":(exclude)*/site-packages/*", index=copy)
        diff = _run_git(*DIFF, "HEAD", index=copy)
    if diff is None:
        return {"commit": commit, "changes": "unknown, git diff failed"}
    if diff:
        patch.write_bytes(diff)
    return {"commit": commit, "changes": patch.name if diff else None}


def _run_git(*args: str, index: Path | None = None) -> bytes | None:
    """Return what git prints; None where it is missing or fails."""
    env = os.environ | ({"GIT_INDEX_FILE": str(index)} if index else {})
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        return subprocess.run(["git", *args], cwd=PROJECT, env=env, check=True, capture_output=True, timeout=30).stdout
    return None


def _plain(value: float | None) -> float | str | None:
    """Return a number as JSON has it."""
    if value is None or math.isfinite(value):
        return value
    return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds")
