"""Share code among the tools: one-line errors, numbered folders, whole files, text tables and one warm fit."""

import argparse
import contextlib
import gc
import io
import json
import os
import sys
import traceback
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

if TYPE_CHECKING:
    from lightning.pytorch import Callback

    from src.cli import CLI

CONTROL = dict.fromkeys([*range(32), 127], " ")  # a name with a line break stays in its line


def refuse(message: str) -> NoReturn:
    """Exit with one line."""
    sys.exit(f"error: {message}")


class Parser(argparse.ArgumentParser):
    """Reports a mistake in one line."""

    def error(self, message: str) -> NoReturn:
        refuse(message)


def claim(root: Path, kind: str) -> Path:
    """Make the next free folder `<kind>_<n>` under root; whoever makes it owns it."""
    if "::" in str(root.absolute()):
        refuse(f"{root}: a folder of runs cannot have `::` in its path. Set --experiment to another name.")
    number = 0
    while True:
        try:
            (root / f"{kind}_{number}").mkdir(parents=True)
            return root / f"{kind}_{number}"
        except FileExistsError:
            number += 1
        except OSError as error:
            refuse(f"Cannot make a folder under {root}: {error.strerror}. Set --trainer.default_root_dir.")


def write(path: Path, text: str) -> None:
    """Write a file whole or not at all."""
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    part.write_text(text, encoding="utf-8", newline="")
    part.replace(path)


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
    import yaml

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


def run_verb(
    args: list[Any], output: Path | None, callbacks: Iterable["Callback"] = (), folder: Path | None = None
) -> tuple["CLI | None", str]:
    """Run one verb in this process and leave it as fresh as it was.

    Args:
        args: What follows `python -m src`.
        output: File that gets everything printed, appended; None leaves it on the terminal.
        callbacks: The caller's own.
        folder: The run's folder.

    Returns:
        The finished command line, or None; and the reason of a failure in one line.

    Raises:
        SystemExit: If a signal ended the run; it can be resumed.
    """
    import torch

    from src.cli import main

    with written_to(output) if output else contextlib.nullcontext():
        try:
            return main(args, callbacks, folder), ""
        except SystemExit as stop:
            if isinstance(stop.code, int) and stop.code >= 128:
                raise
            print(stop.code, file=sys.stderr)
            return None, str(stop.code).splitlines()[0].removeprefix("error: ")
        except Exception as error:  # a user's bug; the next run may be better
            traceback.print_exc()
            return None, " ".join(f"{type(error).__name__}: {error}".split())[:300]
        finally:
            gc.collect()
            torch.compiler.reset()  # torch compiles a net 8 times per process, and later ones run uncompiled
            if torch.cuda.is_available():
                torch.cuda.empty_cache()


def summary_of(run: Path) -> dict[str, Any]:
    """Read the `summary.json` of a run; empty where there is none."""
    found: dict[str, Any] = {}
    with contextlib.suppress(OSError, ValueError):
        found = json.loads((run / "summary.json").read_text(encoding="utf-8"))
    return found


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
