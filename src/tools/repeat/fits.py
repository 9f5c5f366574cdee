"""Run the fits one after the other: start each, resume it, or skip it if it has finished."""

import os
import shlex
import shutil
import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock

from src.cli import main
from src.tools.common import refuse
from src.tools.common.fits import begin_anew, fit_words, has_checkpoint, run_verb, stoppable, summary_of
from src.tools.repeat.folds import join, validate
from src.tools.repeat.plan import Plan
from src.tools.repeat.report import Row, metrics_of, report, report_row

MAX_FAILURES = 3  # in a row


def run_all(plan: Plan) -> None:
    """Run what is not finished, and report each fit, and at the end all of them.

    A signal ends it when the current fit has saved. A fit that fails is noted, and the next one begins.
    """
    if "RANK" in os.environ or "LOCAL_RANK" in os.environ:
        refuse("repeat starts the processes of each fit by itself: call it by `python -m src repeat`, not by torchrun.")
    again = f"python -m src repeat --resume {shlex.quote(os.path.relpath(plan.folder))}"
    rows: list[Row] = []
    with FileLock(plan.folder / ".lock", timeout=0), stoppable(again):
        for number, value in enumerate(plan.values):
            print(f"{plan.kind} {value}, {number + 1} of {len(plan.values)}", flush=True)
            rows.append(fit(plan, number))
            if rows[-1].error and not any(plan.folder.glob("version_*/record.yaml")):
                shutil.rmtree(plan.folder, ignore_errors=True)  # nothing has begun; the error was printed
                sys.exit(1)
            report_row(plan, rows)
            if len(rows) >= MAX_FAILURES and all(row.error for row in rows[-MAX_FAILURES:]):
                break
        overlap = join(plan)
    report(plan, rows)
    if failed := [row for row in rows if row.error]:
        rest = f", {MAX_FAILURES} in a row: the others were not begun" if len(rows) < len(plan.values) else ""
        reason = failed[-1].error.rstrip(".")
        refuse(f"{len(failed)} of {len(rows)} failed{rest}. The last one: {reason}. After fixing it: {again}")
    if overlap:
        refuse(overlap)


def fit(plan: Plan, number: int) -> Row:
    """Run one fit to its end, and validate its best checkpoint if the validation is compared."""
    run, error = plan.run(number), ""
    result = run if plan.stage == "test" else run / "validate"
    if not is_finished(run):
        if not has_checkpoint(run):
            begin_anew(run)
        error = run_verb(fit_words(run), (), run) if is_alone(plan.base["trainer"]) else in_a_process(run)
    if not error and not summary_of(run).get("steps"):
        error = "there was no training batch: the part is empty, or --trainer.limit_train_batches is 0."
    if not error and not is_finished(result):
        error = validate(run, plan)
    metrics = {} if error else metrics_of(summary_of(result)["metrics"], plan.stage)
    if plan.kind == "fold" and not metrics and not error:
        error = "no metric was logged in the validation: the part is empty, or --trainer.limit_val_batches is 0."
    return Row(plan.values[number], run, metrics, error)


def is_finished(run: Path) -> bool:
    """Return whether a run came to its end."""
    return summary_of(run).get("state") == "finished"


def is_alone(trainer: dict[str, Any]) -> bool:
    """Return whether a fit is surely one process: Lightning starts others by this process's own command line."""
    devices = trainer["devices"]
    number = len(devices) if isinstance(devices, list) else devices
    if devices == "auto":
        number = 1 if trainer["accelerator"] == "cpu" else max(1, torch.accelerator.device_count())
    return number in (1, "1") and trainer["num_nodes"] == 1 and trainer["strategy"] == "auto"


def run_one(run: Path) -> None:
    """Run one fit in this process; each rank of a fit on several devices calls this."""
    # If the process that started this one was killed, a resume must not start another one.
    with nullcontext() if "LOCAL_RANK" in os.environ else FileLock(run.parent / ".only.lock", timeout=0):
        main(fit_words(run), (), run)


def in_a_process(run: Path) -> str:
    """Run one fit in a process of its own, whose command line its other ranks get; return the reason of a failure.

    Raises:
        SystemExit: If a signal ended it.
    """
    command: list[str | Path] = [sys.executable, "-m", "src", "repeat", "--only", run]
    # In a session of its own: a signal to the terminal reaches it once, from here.
    with subprocess.Popen(command, start_new_session=True) as child:
        try:
            code = child.wait()
        except SystemExit:
            child.terminate()
            raise
    if code > 128:
        sys.exit(code)
    return str(summary_of(run).get("reason") or f"exit code {code}") if code else ""
