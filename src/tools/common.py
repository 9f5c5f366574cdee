"""Share code among the tools: one-line errors, numbered folders, whole files, text tables and one warm fit."""

import argparse
import contextlib
import copy
import csv
import gc
import inspect
import io
import itertools
import json
import os
import re
import shutil
import signal
import sys
import tempfile
import traceback
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any, NoReturn

import yaml

if TYPE_CHECKING:
    from lightning.pytorch import Callback, LightningDataModule, LightningModule

BASE, POINT = "base.yaml", "point.yaml"  # the config of all fits, and in each run's folder what is its own
CONTROL = dict.fromkeys([*range(32), 127], " ")  # a name with a line break stays in its line


def refuse(message: str) -> NoReturn:
    """Exit with one line."""
    sys.exit(f"error: {message}")


def needs(packages: list[str]) -> None:
    """Refuse to start without the packages of a tool."""
    if missing := [name for name in packages if find_spec(name) is None]:
        refuse(f"{', '.join(missing)}: not installed. Install what this tool needs: make use")


class Parser(argparse.ArgumentParser):
    """Reports a mistake in one line."""

    def error(self, message: str) -> NoReturn:
        refuse(message)


def claim(root: Path, kind: str) -> Path:
    """Make the next free folder `<kind>_<n>` under root; whoever makes it owns it."""
    for number in itertools.count():
        try:
            (root / f"{kind}_{number}").mkdir(parents=True)
            break
        except FileExistsError:
            continue
        except OSError as error:
            refuse(f"Cannot make a folder under {root}: {error.strerror}. Set --trainer.default_root_dir.")
    return root / f"{kind}_{number}"


def write(path: Path, text: str) -> None:
    """Write a file whole or not at all."""
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    part.write_text(text, encoding="utf-8", newline="")
    part.replace(path)


def write_table(path: Path, rows: list[dict[str, Any]]) -> None:
    """Write a CSV whole or not at all; rows may have different columns."""
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, list(dict.fromkeys(name for row in rows for name in row)), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write(path, text.getvalue())


def lines_of(table: list[list[str]], right: set[int] | None = None) -> list[str]:
    """Align rows of text in columns.

    Args:
        table: Rows of cells.
        right: Numbers of the columns that are aligned to the right: figures.
    """
    table = [[text.translate(CONTROL) for text in row] for row in table]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    return [
        "  ".join(
            text.rjust(width) if number in (right or ()) else text.ljust(width)
            for number, (text, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in table
    ]


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
        refuse(f"{root}, {folder.name}: a folder of runs has no `::` or `://`. See --experiment.")
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


@dataclass
class Trained:
    """Holds a trained net, on the CPU in 32 bits and set to evaluate, with the loader of its data.

    Args:
        path: The checkpoint file.
        module: The LightningModule.
        datamodule: Already set up; None if the module has its own loaders.
        loader: The first loader of the stage.
    """

    path: Path
    module: "LightningModule"
    datamodule: "LightningDataModule | None"
    loader: Any

    def __post_init__(self) -> None:
        """Take the transform off a loader of tensors: `transform` keeps it."""
        self.loader = copy.copy(self.loader)
        has_own = hasattr(self.loader, "tensors") and getattr(self.loader, "transform", None)
        self.transform = self.loader.transform if has_own else lambda x: x
        if has_own:
            self.loader.transform = None

    def predict(self, batch: Any) -> Any:
        """Return what `predict_step` returns for a batch, after the hooks of its transfer."""
        import torch
        from lightning.pytorch.utilities.model_helpers import is_overridden

        with torch.no_grad():
            for hook in ("on_before_batch_transfer", "on_after_batch_transfer"):
                # As in Lightning, the data module's takes the place of the module's.
                owner: Any = self.datamodule if is_overridden(hook, self.datamodule) else self.module
                batch = getattr(owner, hook)(batch, 0)
            takes = len(inspect.signature(self.module.predict_step).parameters)  # the batch alone is allowed
            return self.module.predict_step(*(batch, 0)[:takes])


def load_trained(path: Path, options: list[str]) -> Trained:
    """Load a checkpoint and its data by running one batch of `predict`, or of `test` or `validate`.

    Args:
        path: A checkpoint, or a run's folder, which stands for its best checkpoint.
        options: Further ones of the verb, such as `--data.root`.

    Raises:
        SystemExit: If none of the verbs can be run; with the line of `test`.
    """
    from lightning.pytorch.utilities import CombinedLoader

    from src.cli import main

    path = path.expanduser()
    path = next((each for each in (path / "checkpoints/best.ckpt", path / "best.ckpt") if each.exists()), path)
    words = ["--ckpt_path", path, "--trainer.accelerator=cpu", "--trainer.devices=1"]
    words += ["--trainer.precision=32-true", "--trainer.callbacks=null", "--trainer.logger=false"]
    words += ["--track.tensorboard=false", "--track.wandb=null", "--track.mlflow=null", *options]
    reasons = {}
    with tempfile.TemporaryDirectory() as temporary:
        for verb, stage in (("predict", "predict"), ("test", "test"), ("validate", "val")):
            folder = Path(temporary, verb)
            try:
                with written_to(Path(temporary, "output.txt")):
                    cli = main([verb, *words, f"--trainer.limit_{stage}_batches=1"], folder=folder)
            except SystemExit as stop:
                if isinstance(stop.code, int) and stop.code >= 128:  # by a signal
                    raise
                reasons[verb] = stop.code
                continue
            loaders = CombinedLoader(getattr(cli.trainer, f"{stage}_dataloaders")).flattened
            return Trained(cli.ckpt_path or path, cli.model.eval(), cli.datamodule, loaders[0])
    sys.exit(reasons["test"])


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


@contextlib.contextmanager
def written_to(path: Path) -> Iterator[None]:
    """Send everything printed to a file, also by libraries in C and by signal handlers."""
    sys.stdout.flush()
    sys.stderr.flush()
    kept = [os.dup(number) for number in (1, 2)]
    with path.open("a", encoding="utf-8", errors="backslashreplace", buffering=1) as file:
        for number in (1, 2):
            os.dup2(file.fileno(), number)
        try:
            with contextlib.redirect_stdout(file), contextlib.redirect_stderr(file):
                yield
        finally:
            for number, old in zip((1, 2), kept, strict=True):
                os.dup2(old, number)
                os.close(old)
