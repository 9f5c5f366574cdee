"""How a run was made: enough to make it again."""

import datetime
import functools
import importlib.metadata
import os
import platform
import shlex
import shutil
import stat
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
import yaml
from lightning.pytorch import Trainer

from src.engine.paths import shorten
from src.engine.run.run import Run

PACKAGES = ("torch", "torchvision", "lightning", "torchmetrics", "jsonargparse", "numpy")
PROJECT = Path(__file__).parents[3]
# Whatever a user's git is set to, a patch that applies.
DIFF = (
    *("diff", "--binary", "--unified=3", "--no-ext-diff", "--no-textconv", "--no-color", "--no-relative"),
    *("--src-prefix=a/", "--dst-prefix=b/", "--submodule=short"),
)
# Data that lies in the project is no part of the program, nor are packages installed there.
NEW = ("src", "configs", "*.py", ":(exclude)*/site-packages/*")
LARGEST = 1_000_000  # bytes of a new file in the patch; larger ones are weights or data, and are named in the record


def add_entry(run: Run, trainer: Trainer) -> None:
    """Add an entry to `record.yaml` in the run's folder, one for each command that worked on the run.

    An entry holds the command, the time, the git commit and whether files were changed (the changes lie beside it as a
    patch, with the new files of src and configs and new Python files elsewhere; those above 1 MB are named as
    `too_large`), versions (those of all packages in a file that pip can read), device, and the checksums of the data
    where the data module has a method `checksums()`.
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
    listed = (_run_git("ls-files", "-z", "--others", "--exclude-standard", *NEW) or b"").split(b"\0")
    sizes = {name: _size(PROJECT / os.fsdecode(name)) for name in listed if name}
    new = [name for name, size in sizes.items() if 0 <= size <= LARGEST]
    with tempfile.TemporaryDirectory(dir=patch.parent) as place, patch.open("wb") as file:
        done = _run_git(*DIFF, "HEAD", env=_with_new_files(new, Path(place)), stdout=file) is not None
    entry: dict[str, Any] = {"commit": commit.decode().strip(), "changes": patch.name}
    if not done or not patch.stat().st_size:
        patch.unlink()
        entry["changes"] = None if done else "unknown, git diff failed"
    if large := [os.fsdecode(name) for name, size in sizes.items() if size > LARGEST]:
        entry["too_large"] = large
    return entry


def _size(path: Path) -> int:
    """Bytes of a file, a link's own; -1 of what is neither (a folder that is a repository of its own)."""
    try:
        found = path.lstat()
    except OSError:  # gone since
        return -1
    return found.st_size if stat.S_ISREG(found.st_mode) or stat.S_ISLNK(found.st_mode) else -1


def _with_new_files(names: list[bytes], place: Path) -> dict[str, str]:
    """Variables that let git take new files for added ones: one `git diff` then has them all.

    Args:
        names: Of the files, as git lists them.
        place: A folder for a copy of the index; the repository's own stays as it is, and so do its objects.
    """
    if not names:
        return {}
    index, objects = (
        (PROJECT / os.fsdecode(_run_git("rev-parse", "--git-path", name) or b"").removesuffix("\n")).absolute()
        for name in ("index", "objects")
    )
    env = {"GIT_INDEX_FILE": str(place / "index"), "GIT_OBJECT_DIRECTORY": str(place)}
    env["GIT_ALTERNATE_OBJECT_DIRECTORIES"] = str(objects)
    if index.exists():
        shutil.copy2(index, place / "index")  # by its time git knows which files may have changed in the same second
    add = ("--literal-pathspecs", "add", "--intent-to-add", "--pathspec-from-file=-", "--pathspec-file-nul")
    _run_git(*add, env=env, input=b"\0".join(names))
    return env


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


def _run_git(*args: str, env: dict[str, str] | None = None, **options: Any) -> bytes | None:
    """What git says; None where it is not there or fails.

    Args:
        args: Of the command.
        env: Variables beside those of this process.
        options: Of `subprocess.run`: its input, or a file for its output.
    """
    options = {"stdout": subprocess.PIPE} | options
    try:
        done: subprocess.CompletedProcess[Any] = subprocess.run(
            ["git", *args],
            cwd=PROJECT,
            env={**os.environ, **(env or {})},
            stderr=subprocess.DEVNULL,
            timeout=30,
            check=True,
            **options,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout or b""


def _name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor() or platform.machine()


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None
