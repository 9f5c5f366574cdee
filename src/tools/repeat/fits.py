"""The fits, one after the other: each an ordinary run that is begun, resumed, or finished already."""

import os
import shlex
import shutil
import signal
import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from filelock import FileLock

from src import cli
from src.tools.common import refuse, run_verb, summary_of
from src.tools.repeat.folds import join, validate
from src.tools.repeat.plan import Plan
from src.tools.repeat.report import Row, metrics_of, report, report_row

MAX_FAILURES = 3  # in a row
STOPS = [stop for stop in signal.Signals if stop.name in ("SIGINT", "SIGTERM", "SIGHUP")]


def run_all(folder: Path, plan: Plan) -> None:
    """Run what is not finished, and report each fit, and at the end all of them.

    A signal ends it when the current fit has saved. A fit that fails is noted, and the next one begins.
    """
    if "RANK" in os.environ or "LOCAL_RANK" in os.environ:
        refuse("repeat starts the processes of each fit by itself: call it by `python -m src repeat`, not by torchrun.")
    again = f"python -m src repeat --resume {shlex.quote(os.path.relpath(folder))}"
    rows: list[Row] = []
    with FileLock(folder / ".lock", timeout=0):
        try:
            for number, value in enumerate(plan.values):
                print(f"{plan.kind} {value}, {number + 1} of {len(plan.values)}", flush=True)
                rows.append(fit(folder, plan, number))
                if rows[-1].error and not any(folder.glob("version_*/record.yaml")):
                    shutil.rmtree(folder, ignore_errors=True)  # nothing has begun; the error was printed
                    sys.exit(1)
                report_row(folder, plan, rows)
                if len(rows) >= MAX_FAILURES and all(row.error for row in rows[-MAX_FAILURES:]):
                    break
        except (KeyboardInterrupt, SystemExit) as stop:
            code = stop.code if isinstance(stop, SystemExit) else 128 + signal.SIGINT
            if code != 1:
                print(f"stopped; resume with: {again}", file=sys.stderr, flush=True)
            sys.exit(code)
        overlap = join(folder, plan)
    report(folder, plan, rows)
    if failed := [row for row in rows if row.error]:
        rest = f", {MAX_FAILURES} in a row: the others were not begun" if len(rows) < len(plan.values) else ""
        reason = failed[-1].error.rstrip(".")
        refuse(f"{len(failed)} of {len(rows)} failed{rest}. The last one: {reason}. After fixing it: {again}")
    if overlap:
        refuse(overlap)


def fit(folder: Path, plan: Plan, number: int) -> Row:
    """Run one fit to its end, and validate its best checkpoint if the validation is compared."""
    run = folder / f"version_{number}"
    result, error = run if plan.stage == "test" else run / "validate", ""
    if not is_finished(run):
        if run.exists() and not last(run).exists():
            shutil.rmtree(run)  # it died before there was anything to resume from
        args, new = command(folder, plan, number)
        error = run_verb(args, None, (), new)[1] if plan.alone else in_a_process(folder, number)
    if not error and not summary_of(run).get("steps"):
        error = "there was no training batch: the part is empty, or --trainer.limit_train_batches is 0."
    if not error and not is_finished(result):
        error = validate(run, plan)
    metrics = {} if error else metrics_of(summary_of(result)["metrics"], plan.stage)
    if plan.kind == "fold" and not metrics and not error:
        error = "no metric was logged in the validation: the part is empty, or --trainer.limit_val_batches is 0."
    return Row(plan.values[number], run, metrics, error)


def last(run: Path) -> Path:
    """Return the checkpoint that a run is resumed from."""
    return run / "checkpoints" / "last.ckpt"


def is_finished(run: Path) -> bool:
    """Return whether a run came to its end."""
    return summary_of(run).get("state") == "finished"


def command(folder: Path, plan: Plan, number: int) -> tuple[list[Any], Path | None]:
    """Return the command line that begins or resumes a fit, and the folder of a new one."""
    run = folder / f"version_{number}"
    if last(run).exists():
        return ["fit", "--ckpt_path", run], None
    # A file that was edited since does not count once there is a fit to compare with; one that failed is none.
    begun = [run for run in sorted(folder.glob("version_*")) if last(run).exists() or is_finished(run)]
    options = ["--config", begun[0] / "config.yaml"] if begun else plan.options
    return ["fit", *options, plan.own(number)], run


def run_one(folder: Path, plan: Plan, number: int) -> None:
    """Run one fit in this process; each rank of a fit on several devices comes by here."""
    args, new = command(folder, plan, number)
    # If the process that started this one was killed, a resume must not start another one.
    with nullcontext() if "LOCAL_RANK" in os.environ else FileLock(folder / ".only.lock", timeout=0):
        cli.main(args, (), new)


def in_a_process(folder: Path, number: int) -> str:
    """Run one fit in a process of its own, whose command line its other ranks get; return the reason of a failure.

    Raises:
        SystemExit: If a signal ended it.
    """
    child = subprocess.Popen([sys.executable, "-m", "src", "repeat", "--resume", folder, "--only", str(number)])
    # Sent twice, by the terminal and from here, is once.
    before = {stop: signal.signal(stop, lambda got, _: child.send_signal(got)) for stop in STOPS}
    try:
        code = child.wait()
    finally:
        for stop, handler in before.items():
            signal.signal(stop, handler)
    code = 128 - code if code < 0 else code
    if code - 128 in STOPS:
        sys.exit(code)
    return str(summary_of(folder / f"version_{number}").get("reason") or f"exit code {code}") if code else ""
