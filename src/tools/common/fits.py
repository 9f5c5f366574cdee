"""Share what sweep and repeat do with many fits: one base config, a point for each, one fit in a warm process."""

import contextlib
import gc
import io
import json
import re
import shutil
import signal
import sys
import traceback
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

import yaml

from src.tools.common import refuse, write, written_to

if TYPE_CHECKING:
    from lightning.pytorch import Callback

BASE, POINT = "base.yaml", "point.yaml"  # the config of all fits, and in each run's folder what is its own


def composed(options: list[str]) -> dict[str, Any]:
    """Compose the config that `fit` would run with; nothing is run.

    Raises:
        SystemExit: With the parser's line, if an option is wrong.
    """
    from src.cli import main

    with contextlib.redirect_stdout(io.StringIO()) as shown, contextlib.redirect_stderr(io.StringIO()) as errors:
        try:
            main(["fit", *options, "--print_config"])
        except SystemExit as stop:
            if isinstance(stop.code, str):
                raise
            if stop.code:
                raise SystemExit(errors.getvalue().strip().splitlines()[-1]) from None
    config: dict[str, Any] = yaml.safe_load(shown.getvalue())
    return config


def compose_base(files: list[str] | None, options: list[str], own: set[str]) -> tuple[dict[str, Any], Path]:
    """Compose the config that all fits of a tool share, and refuse what they cannot have; nothing is run.

    Args:
        files: What --config was given.
        options: Those of `fit`.
        own: The names of options that the tool sets itself.

    Returns:
        The config, and the folder of its experiment.
    """
    if not files:
        refuse("name the YAML of an experiment first, --config configs/<name>.yaml.")
    given = {word.lstrip("-").partition("=")[0] for word in options}
    if wrong := given & {*own, "ckpt_path", "print_config"}:
        refuse(f"--{wrong.pop()}: each fit is a new run, and this option is set for it. Leave it out.")
    base = composed([*(f"--config={file}" for file in files), *options])
    trainer = base["trainer"]
    if trainer["fast_dev_run"] or trainer["barebones"] or trainer["enable_checkpointing"] is False:
        refuse("trainer.fast_dev_run, barebones, enable_checkpointing: fits are compared by their checkpoints.")
    base["experiment"] = base["experiment"] or Path(files[0]).stem
    root = str(trainer["default_root_dir"] or ".")
    folder = Path(root).expanduser() / base["experiment"]
    if "://" in root or "::" in str(folder.absolute()):
        refuse(f"{folder}: the path of a run cannot hold `::` or `://`. Change --experiment or the folder of runs.")
    return base, folder


class Dumper(yaml.SafeDumper):
    """Quotes a text that a reader of YAML 1.2 would take for a number, such as `1e3`."""


Dumper.add_implicit_resolver("tag:yaml.org,2002:float", re.compile(r"[-+.\d].*"), list("-+.0123456789"))


def as_yaml(tree: dict[str, Any], **more: Any) -> str:
    """Return a config as text."""
    return str(yaml.dump(tree, Dumper=Dumper, sort_keys=False, allow_unicode=True, **{"width": 120} | more))


def has_checkpoint(run: Path) -> bool:
    """Return whether a fit can be resumed."""
    return (run / "checkpoints" / "last.ckpt").exists()


def begin_anew(run: Path) -> None:
    """Empty the folder of a fit, but for its point."""
    point = (run / POINT).read_text(encoding="utf-8")
    shutil.rmtree(run)
    run.mkdir()
    write(run / POINT, point)


def fit_words(run: Path) -> list[Any]:
    """Return the command line that fits the point in a run's folder on top of `base.yaml`, or resumes that fit."""
    if has_checkpoint(run):
        return ["fit", "--ckpt_path", run]
    return ["fit", "--config", run.parent / BASE, "--config", run / POINT]


def run_verb(
    args: list[Any], callbacks: Iterable["Callback"] = (), folder: Path | None = None, output: Path | None = None
) -> str:
    """Run one verb in this process and leave it as fresh as it was.

    Args:
        args: What follows `python -m src`.
        callbacks: The caller's own.
        folder: The run's folder.
        output: File that gets everything printed, appended; None leaves it on the terminal.

    Returns:
        The reason of a failure in one line, or nothing.

    Raises:
        SystemExit: If a signal ended the run; it can be resumed.
    """
    import torch

    from src.cli import main

    with written_to(output) if output else contextlib.nullcontext():
        try:
            main(args, callbacks, folder)
        except SystemExit as stop:
            if isinstance(stop.code, int) and stop.code >= 128:
                raise
            print(stop.code, file=sys.stderr)
            return str(stop.code).splitlines()[0].removeprefix("error: ")
        except Exception as error:  # a user's bug; the next run may be better
            traceback.print_exc()
            return " ".join(f"{type(error).__name__}: {error}".split())[:300]
        finally:
            gc.collect()
            torch.compiler.reset()  # torch compiles a net 8 times per process, and later ones run uncompiled
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
    return ""


def summary_of(run: Path) -> dict[str, Any]:
    """Read the `summary.json` of a run; empty where there is none."""
    found: dict[str, Any] = {}
    with contextlib.suppress(OSError, ValueError):
        found = json.loads((run / "summary.json").read_text(encoding="utf-8"))
    return found


@contextlib.contextmanager
def stoppable(again: str) -> Iterator[None]:
    """Leave at a signal by SystemExit, as a fit does; print the command that continues."""

    def leave(number: int, frame: FrameType | None) -> None:
        sys.exit(128 + number)

    stops = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]
    before = {stop: signal.signal(stop, leave) for stop in stops if signal.getsignal(stop) != signal.SIG_IGN}
    try:
        yield
    except SystemExit as stop:
        if isinstance(stop.code, int) and stop.code >= 128:
            name = signal.Signals(stop.code - 128).name
            print(f"stopped by {name}; continue with: {again}", file=sys.stderr, flush=True)
        raise
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
