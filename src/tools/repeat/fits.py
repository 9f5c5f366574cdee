"""The fits, one after the other: each an ordinary run, begun, gone on with, or done already."""

import gc
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import traceback
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from src import cli
from src.tools.common import refuse
from src.tools.repeat.folds import TOLD, join, validate
from src.tools.repeat.lock import hold
from src.tools.repeat.plan import Plan
from src.tools.repeat.report import Row, metrics_of, tell, tell_row

MOST_FAILURES = 3  # in a row
STOPS = {128 + signal.Signals[name] for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)}


class NoData(SystemExit):
    """The first fit cannot make its data, so no other fit can."""


class Parts(Callback):
    """Sees that both parts of a fold have batches: without a validation it would be missing in the mean.

    Attributes:
        has_data: Whether the data could be set up.
        trains: Whether there was something to train on.
    """

    has_data = trains = False

    def setup(self, trainer: Trainer, module: LightningModule, stage: str) -> None:
        self.has_data = True  # Lightning sets up the data first

    def on_train_start(self, trainer: Trainer, module: LightningModule) -> None:
        batches = trainer.num_val_batches
        if not (sum(batches) if isinstance(batches, list) else batches):
            refuse("there is no validation batch: the part is empty, or --trainer.limit_val_batches is 0.")
        self.trains = True

    def on_fit_end(self, trainer: Trainer, module: LightningModule) -> None:
        if not trainer.num_training_batches:  # then a fit ends before it starts
            refuse("there is no training batch: the part is empty, or --trainer.limit_train_batches is 0.")


def run_all(folder: Path, plan: Plan) -> None:
    """Do what is not done yet; tell each fit, and at the end all of them.

    A signal ends it when the fit at hand has saved; a failing fit is noted, and the next one begins.
    """
    if "RANK" in os.environ or "LOCAL_RANK" in os.environ:
        refuse("repeat starts the processes of each fit by itself: call it by `python -m src repeat`, not by torchrun.")
    rows: list[Row] = []
    overlap = ""
    with hold(folder) as lock:
        try:
            code = each(folder, plan, lock, rows)
        except NoData:
            shutil.rmtree(folder)
            raise
        if plan.kind == "fold" and code not in STOPS:
            overlap = join(folder, plan)
    again = f"python -m src repeat --resume {shlex.quote(os.path.relpath(folder))}"
    if code in STOPS:
        print(f"stopped; go on with: {again}", file=sys.stderr, flush=True)
        sys.exit(code)
    tell(folder, plan, rows)
    if failed := [row for row in rows if row.error]:
        where = f"{len(failed)} of {len(rows)} failed"
        where += "" if len(rows) == len(plan.values) else f", {MOST_FAILURES} in a row: the others were not begun"
        refuse(f"{where}. The last one: {failed[-1].error.rstrip('.')}. When it is mended: {again}")
    if overlap:
        refuse(overlap)


def each(folder: Path, plan: Plan, lock: int | None, rows: list[Row]) -> int:
    """Do one after the other, and add what is told of each; returns the last exit code."""
    code, overlap = 0, ""
    try:
        for number, value in enumerate(plan.values):
            print(f"{plan.kind} {value}, {number + 1} of {len(plan.values)}", flush=True)
            code, why = (0, "") if is_done(folder, plan, number) else run(folder, plan, number, lock)
            if code in STOPS:
                return code
            rows.append(Row(value, place(folder, number), {} if code else metrics(folder, plan, number), why))
            tell_row(folder, plan, rows)
            if plan.kind == "fold" and not overlap:
                overlap = join(folder, plan)
                print(f"warning: {overlap}\n" if overlap else "", end="", file=sys.stderr, flush=True)
            if len(rows) >= MOST_FAILURES and all(row.error for row in rows[-MOST_FAILURES:]):
                return code
    except KeyboardInterrupt:  # between two
        return 128 + signal.SIGINT
    return code


def place(folder: Path, number: int) -> Path:
    """The folder of the `number`-th fit."""
    return folder / f"version_{number}"


def last(run: Path) -> Path:
    """What a run goes on from."""
    return run / "checkpoints" / "last.ckpt"


def read(path: Path) -> dict[str, Any]:
    """A file of a run; nothing where it is not there."""
    try:
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found


def finished(run: Path) -> bool:
    """Whether a run came to its end."""
    return read(run / "summary.json").get("state") == "finished"


def is_done(folder: Path, plan: Plan, number: int) -> bool:
    """Whether a fit came to its end, and what is told of it is there."""
    here = place(folder, number)
    return finished(here) and (plan.stage == "test" or (here / TOLD).exists())


def metrics(folder: Path, plan: Plan, number: int) -> dict[str, float]:
    """What is told of a fit that is done."""
    here = place(folder, number)
    found = read(here / "summary.json")["metrics"] if plan.stage == "test" else read(here / TOLD)
    return metrics_of(found, plan.stage)


def run(folder: Path, plan: Plan, number: int, lock: int | None) -> tuple[int, str]:
    """Do one fit, and where the validation is told, that of its best checkpoint.

    Args:
        folder: The repeat's.
        plan: Its plan.
        number: Which fit.
        lock: What a process that outlives this one holds on to.

    Returns:
        The exit code, and of a failure, which was told, the reason in a line.
    """
    here = place(folder, number)
    if here.exists() and not last(here).exists():
        shutil.rmtree(here)  # it died before there was anything to go on from
    code, why = caught(fit, folder, plan, number) if plan.alone else in_a_process(folder, number, lock)
    if not code and plan.stage == "val":
        code, why = caught(validate, here, plan)
    gc.collect()
    torch.compiler.reset()  # it compiles a net for 8 runs, and leaves the next ones as they are
    return code, why


def fit(folder: Path, plan: Plan, number: int) -> None:
    """Begin one fit, or go on with it; of several processes each comes by here."""
    here = place(folder, number)
    parts = Parts()
    callbacks = [parts] if plan.kind == "fold" else []
    if last(here).exists():
        cli.main(["fit", "--ckpt_path", here], callbacks)
        return
    # A file that was edited since does not count once there is a fit to compare with; one that failed is none.
    begun = [run for run in sorted(folder.glob("version_*")) if last(run).exists() or finished(run)]
    options = ["--config", begun[0] / "config.yaml"] if begun else plan.options
    try:
        cli.main(["fit", *options, *plan.own(number)], callbacks, folder=here)
    except SystemExit as stop:
        if not isinstance(stop.code, str) or not callbacks or parts.trains:
            raise
        if not (parts.has_data or begun):
            raise NoData(stop.code) from None
        raise SystemExit(f"{stop.code} It is fold {number}: --data.fold [{number}, {len(plan.values)}].") from None


def caught(do: Any, *args: Any) -> tuple[int, str]:
    """Do something in this process; what it raises is told, and becomes an exit code and a reason."""
    try:
        do(*args)
    except NoData:
        raise
    except SystemExit as stop:
        if isinstance(stop.code, str):
            print(stop.code, file=sys.stderr, flush=True)
            return 1, stop.code.removeprefix("error: ").splitlines()[0]
        return stop.code or 0, f"exit code {stop.code}" if stop.code else ""
    except Exception as error:
        traceback.print_exc()
        return 1, " ".join(f"{type(error).__name__}: {error}".split())[:300]
    return 0, ""


def in_a_process(folder: Path, number: int, lock: int | None) -> tuple[int, str]:
    """Do a fit in a process of its own, whose command line the other processes of the fit get, too."""
    command = [sys.executable, "-m", "src", "repeat", "--resume", str(folder), "--only", str(number)]
    child = subprocess.Popen(command, pass_fds=[] if lock is None else [lock])
    # Sent twice, by the terminal and from here, is once.
    before = {stop - 128: signal.signal(stop - 128, lambda got, _: child.send_signal(got)) for stop in STOPS}
    try:
        code = child.wait()
    finally:
        for stop, handler in before.items():
            signal.signal(stop, handler)
    why = str(read(place(folder, number) / "summary.json").get("reason") or f"exit code {code}") if code else ""
    return 128 - code if code < 0 else code, why
