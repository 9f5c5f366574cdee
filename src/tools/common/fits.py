"""Share what sweep and repeat do with many fits: one base config, a point for each, one fit in a warm process."""

import contextlib
import gc
import io
import json
import re
import shlex
import shutil
import signal
import sys
import traceback
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

import yaml
from filelock import FileLock, Timeout

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

    with contextlib.redirect_stdout(io.StringIO()) as shown, contextlib.redirect_stderr(io.StringIO()):
        try:
            main(["fit", *options, "--print_config"])
        except SystemExit as stop:
            if stop.code:
                raise
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
    if trainer["devices"] not in ("auto", 1, "1") or trainer["num_nodes"] != 1:
        refuse(
            f"--trainer.devices={trainer['devices']}, num_nodes={trainer['num_nodes']}: each fit runs on one "
            "device. Choose it by CUDA_VISIBLE_DEVICES; sweep uses several by --workers."
        )
    trainer["devices"] = 1
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


def fit(run: Path, point: dict[str, Any], callbacks: Iterable["Callback"] = (), output: Path | None = None) -> str:
    """Fit a point on top of `base.yaml`, or resume that fit from its checkpoint; see `run_verb`."""
    if (run / "checkpoints" / "last.ckpt").exists():
        return run_verb(["fit", "--ckpt_path", run], callbacks, run, output)
    shutil.rmtree(run, ignore_errors=True)
    run.mkdir(parents=True)
    write(run / POINT, as_yaml(point))
    return run_verb(["fit", "--config", run.parent / BASE, "--config", run / POINT], callbacks, run, output)


def evaluate(
    words: list[str], run: Path, folder: Path, callbacks: Iterable["Callback"] = (), output: Path | None = None
) -> str:
    """Run `validate`, `test` or `predict` with options in a folder, from a fit's best checkpoint; see `run_verb`."""
    best = run / "checkpoints" / "best.ckpt"
    best = best if best.exists() else best.with_name("last.ckpt")
    accelerator = yaml.safe_load((run / "config.yaml").read_text(encoding="utf-8"))["trainer"]["accelerator"]
    folder.mkdir(exist_ok=True)
    more = ["--ckpt_path", best, "--trainer.accelerator", accelerator, "--trainer.devices", "1"]
    return run_verb([*words, *more], callbacks, folder, output)


def run_verb(args: list[Any], callbacks: Iterable["Callback"], folder: Path, output: Path | None = None) -> str:
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
