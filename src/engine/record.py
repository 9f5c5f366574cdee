"""How a run was made: enough to make it again."""

import datetime
import functools
import importlib.metadata
import os
import platform
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch
import yaml
from lightning.pytorch import Trainer

from src.engine.paths import shorten
from src.engine.run import Run

PACKAGES = ("torch", "torchvision", "lightning", "torchmetrics", "jsonargparse", "numpy")
PROJECT = Path(__file__).parents[2]
# Whatever a user's git is set to, a patch that applies.
DIFF = (
    *("diff", "--binary", "--unified=3", "--no-ext-diff", "--no-textconv", "--no-color", "--no-relative"),
    *("--src-prefix=a/", "--dst-prefix=b/", "--submodule=short"),
)
# Data that lies in the project is no part of the program, nor are packages installed there.
NEW = ("src", "configs", "*.py", ":(exclude)*/site-packages/*")


def add_entry(run: Run, trainer: Trainer) -> None:
    """Add an entry to `record.yaml` in the run's folder, one for each command that worked on the run.

    An entry holds the command, the time, the git commit and whether files were changed (the changes lie beside it as a
    patch, with the new files of src and configs and new Python files elsewhere), versions (those of all packages in a
    file that pip can read), device, and the checksums of the data where the data module has a method `checksums()`.
    """
    path = run.folder / "record.yaml"
    entries = yaml.safe_load(path.read_text(encoding="utf-8")) if path.exists() else []
    device = trainer.strategy.root_device
    entry: dict[str, Any] = {
        "command": _command(run),
        "folder": str(Path.cwd()),
        "time": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "git": _git(run.folder / f"changes-{len(entries)}.patch"),
        "versions": {"python": platform.python_version()} | {name: _version(name) for name in PACKAGES},
        "packages": _packages(run.folder / f"packages-{len(entries)}.txt"),
        "device": {"type": device.type, "name": _name(device), "processes": trainer.world_size}
        | {"machine": platform.platform()},
    }
    checksums = getattr(getattr(trainer, "datamodule", None), "checksums", None)
    if checksums:
        entry["data"] = checksums()
    if entries and (changed := changed_options(run.folder / "config.yaml", run.config)):
        entry["changed"] = changed
    part = path.with_suffix(".part")
    part.write_text(yaml.safe_dump([*entries, entry], sort_keys=False, width=1000), encoding="utf-8")
    part.replace(path)


def _git(patch: Path) -> dict[str, Any] | None:
    commit = _run_git("rev-parse", "HEAD")
    if not commit:
        return None
    diff = _run_git(*DIFF, "HEAD")
    for name in _run_git("ls-files", "-z", "--others", "--exclude-standard", *NEW).split(b"\0"):
        diff += _run_git(*DIFF, "--no-index", os.devnull, os.fsdecode(name)) if name else b""
    if diff:
        patch.write_bytes(diff)  # as git gives it: files may have any encoding and line ends
    return {"commit": commit.decode().strip(), "changes": patch.name if diff else None}


def _packages(path: Path) -> str:
    """Write the list of all packages, unless the one before is the same; returns the name of the file."""
    # Reading a hundred files takes longer than a small fit; what is installed in between changes its folder.
    text = _installed(tuple((folder, Path(folder).stat().st_mtime_ns) for folder in sys.path if Path(folder).is_dir()))
    for other in path.parent.glob("packages-*.txt"):
        if other.read_text(encoding="utf-8") == text:
            return other.name
    path.write_text(text, encoding="utf-8")
    return path.name


@functools.cache
def _installed(folders: tuple[tuple[str, int], ...]) -> str:
    found = {f"{each.name}=={each.version}" for each in importlib.metadata.distributions()}
    return "".join(f"{line}\n" for line in sorted(found, key=str.lower))


def _command(run: Run) -> str:
    if Path(sys.argv[0]).parts[-2:] == ("src", "__main__.py") and run.verb in sys.argv[1:]:
        return shlex.join(["python", "-m", "src", *sys.argv[1:]])
    # A notebook, a script or a tool called `main`; what it was given stands in the config.
    return shlex.join(["python", "-m", "src", run.verb, "--config", str(shorten(run.folder / "config.yaml"))])


def changed_options(file: Path, config: dict[str, Any]) -> dict[str, Any]:
    """What a run was resumed with that is not in its config.yaml, by the option's name."""
    if not config or not file.exists():
        return {}
    was, now = _flat(yaml.safe_load(file.read_text(encoding="utf-8"))), _flat(config)
    return {name: value for name, value in now.items() if name not in was or was[name] != value}


def _flat(node: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in node.items():
        flat |= _flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {f"{prefix}{name}": value}
    return flat


def _run_git(*args: str) -> bytes:
    """What git says; nothing where it is not there or fails."""
    try:
        done = subprocess.run(["git", *args], cwd=PROJECT, capture_output=True, timeout=30)
    except (OSError, subprocess.SubprocessError):
        return b""
    return done.stdout if done.returncode in (0, 1) else b""  # 1: `diff --no-index` found something


def _name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor() or platform.machine()


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None
