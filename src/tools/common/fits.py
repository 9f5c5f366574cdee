"""Share what sweep and repeat do with many fits: one base config, options for each fit, one fit in a warm process."""

import contextlib
import gc
import io
import itertools
import json
import shlex
import shutil
import signal
import sys
import traceback
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import yaml
from filelock import FileLock, Timeout

from src.tools.common import refuse, write, written_to

BASE = "base.yaml"  # the config of all fits
MAX_FAILURES = 3  # so many in a row end a sweep or a repeat


def composed(words: list[str]) -> dict[str, Any]:
    """Return the config that `fit` would run with; a wrong option exits with the parser's line."""
    from src.cli import main

    with contextlib.redirect_stdout(io.StringIO()) as shown, contextlib.redirect_stderr(io.StringIO()):
        try:
            main(["fit", *words, "--print_config"])
        except SystemExit as stop:
            if stop.code:
                raise
    config: dict[str, Any] = yaml.safe_load(shown.getvalue())
    return config


def compose_base(files: list[str], options: list[str], own: set[str]) -> tuple[dict[str, Any], Path]:
    """Compose the config that all fits of a tool share, and refuse what they cannot have; nothing is run.

    Args:
        files: What --config was given.
        options: Those of `fit`.
        own: The names of options that the tool sets itself.

    Returns:
        The config, in which references stay, and the folder of its experiment.
    """
    from src.cli import compose

    if not files:
        refuse("name the YAML of an experiment first, --config configs/<name>.yaml.")
    given = {word.lstrip("-").partition("=")[0] for word in options}
    if wrong := given & {*own, "ckpt_path", "print_config"}:
        refuse(f"--{wrong.pop()}: each fit is a new run, and this option is set for it. Leave it out.")
    words = [*(f"--config={file}" for file in files), *options]
    base = composed(words)
    trainer = base["trainer"]
    if trainer["fast_dev_run"] or trainer["barebones"] or trainer["enable_checkpointing"] is False:
        refuse("trainer.fast_dev_run, barebones, enable_checkpointing: fits are compared by their checkpoints.")
    if trainer["devices"] not in ("auto", 1, "1") or trainer["num_nodes"] != 1:
        refuse(f"--trainer.devices={trainer['devices']}, num_nodes={trainer['num_nodes']}: each fit has one device.")
    base["experiment"] = base["experiment"] or Path(files[0]).stem
    root = str(trainer["default_root_dir"] or ".")
    folder = Path(root).expanduser() / base["experiment"]
    if "://" in root or "::" in str(folder.absolute()):
        refuse(f"{folder}: the path of a run cannot hold `::` or `://`. Change --experiment or the folder of runs.")
    base = with_references(base, compose({}, words)[0])
    base["trainer"]["devices"] = 1
    return base, folder


def with_references(values: Any, written: Any) -> Any:
    """Put each `${...}` back where its value stands, so that a fit resolves it after its own options."""
    if isinstance(values, dict) and isinstance(written, dict):
        return {key: with_references(value, written.get(key)) for key, value in values.items()}
    if isinstance(values, list) and isinstance(written, list) and len(values) == len(written):
        return [with_references(*pair) for pair in zip(values, written, strict=True)]
    return written if isinstance(written, str) and "${" in written else values


def claim(root: Path, kind: str, base: dict[str, Any]) -> Path:
    """Make the next free folder `<kind>_<n>` under root, with `base.yaml` in it; whoever makes it owns it."""
    from src.cli import as_yaml

    for number in itertools.count():
        try:
            (root / f"{kind}_{number}").mkdir(parents=True)
            break
        except FileExistsError:
            continue
        except OSError as error:
            refuse(f"Cannot make a folder under {root}: {error.strerror}. Set --trainer.default_root_dir.")
    write(root / f"{kind}_{number}" / BASE, as_yaml(base))
    return root / f"{kind}_{number}"


def load(folder: Path, name: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Read the plan of a tool, the file of this name in its folder, and the config of all its fits."""
    try:
        plan, base = (yaml.safe_load((folder / each).read_text(encoding="utf-8")) for each in (name, BASE))
    except (OSError, yaml.YAMLError) as error:
        refuse(f"--resume {folder}: {' '.join(str(error).split())}. Name a folder with {name}, made by this tool.")
    return plan, base


@contextlib.contextmanager
def working_on(folder: Path, tool: str, shared: bool = False) -> Iterator[str]:
    """Hold the lock of a folder; leave at a signal by SystemExit, as a fit does.

    Args:
        folder: Of the tool's runs.
        tool: `sweep` or `repeat`.
        shared: Several machines work there, so nobody holds the lock.

    Yields:
        The command that continues; it is printed at a signal.
    """

    def leave(number: int, frame: FrameType | None) -> None:
        sys.exit(128 + number)

    again = f"python -m src {tool} --resume {shlex.quote(str(folder))}"
    stops = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]
    before = {stop: signal.signal(stop, leave) for stop in stops if signal.getsignal(stop) != signal.SIG_IGN}
    try:
        with contextlib.nullcontext() if shared else FileLock(folder / ".lock", timeout=0):
            yield again
    except Timeout:
        refuse(f"another process works on {folder}: wait for it, or end it.")
    except SystemExit as stop:
        if isinstance(stop.code, int) and stop.code >= 128:
            name = signal.Signals(stop.code - 128).name
            print(f"stopped by {name}; continue with: {again}", file=sys.stderr, flush=True)
        raise
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def fit(run: Path, options: list[str], **more: Any) -> str:
    """Fit with options on top of `base.yaml`, or resume that fit from its checkpoint; see `run_verb`."""
    if (run / "checkpoints" / "last.ckpt").exists():
        return run_verb(["fit", "--ckpt_path", run], run, **more)
    shutil.rmtree(run, ignore_errors=True)
    run.mkdir(parents=True)
    return run_verb(["fit", "--config", run.parent / BASE, *options], run, **more)


def evaluate(words: list[str], run: Path, folder: Path, **more: Any) -> str:
    """Run `validate`, `test` or `predict` with options in a folder, from a fit's best checkpoint; see `run_verb`."""
    best = run / "checkpoints" / "best.ckpt"
    best = best if best.exists() else best.with_name("last.ckpt")
    accelerator = yaml.safe_load((run / "config.yaml").read_text(encoding="utf-8"))["trainer"]["accelerator"]
    folder.mkdir(exist_ok=True)
    place = ["--trainer.accelerator", accelerator, "--trainer.devices", "1"]
    return run_verb([*words, "--ckpt_path", best, *place], folder, **more)


def run_verb(args: list[Any], folder: Path, callbacks: Iterable[Any] = (), output: Path | None = None) -> str:
    """Run one verb in this process and leave it as fresh as it was; a run that has finished is left alone.

    Args:
        args: What follows `python -m src`.
        folder: The run's folder.
        callbacks: The caller's own.
        output: File that gets everything printed, appended; None leaves it on the terminal.

    Returns:
        The reason of a failure in one line, or nothing.

    Raises:
        SystemExit: If a signal ended the run; it can be resumed.
    """
    import torch

    from src.cli import main

    if summary_of(folder).get("state") == "finished":
        return ""
    if not gc.get_freeze_count():  # what is imported: to look through it after each run takes longer than a small fit
        gc.freeze()
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
    return ""


def summary_of(run: Path) -> dict[str, Any]:
    """Read the `summary.json` of a run; empty where there is none."""
    path = run / "summary.json"
    return dict(json.loads(path.read_text(encoding="utf-8"))) if path.exists() else {}
