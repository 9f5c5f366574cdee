"""Record how a run was made: enough to make it again."""

import datetime
import functools
import importlib.metadata
import os
import platform
import shlex
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
import yaml
from lightning.pytorch import Trainer

from src.engine.paths import shorten, write_whole
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


def add_entry(run: Run, trainer: Trainer) -> dict[str, Any]:
    """Add an entry to `record.yaml` in the run's folder, one for each command that worked on the run.

    An entry holds the command, the time, the git commit and the changes since (in a patch beside it, with new files of
    src and configs and new Python files elsewhere; those above 1 MB are named as `too_large`), versions (those of all
    packages in a file that pip can read), device, options that differ from config.yaml, and the checksums of the data
    where the data module has a method `checksums()`.
    """
    path = run.folder / "record.yaml"
    entries = yaml.safe_load(path.read_text(encoding="utf-8")) if path.exists() else []
    packages = run.folder / f"packages-{len(entries)}.txt"
    packages.write_text("".join(f"{name}=={version}\n" for name, version in sorted(_installed().items())))
    device = trainer.strategy.root_device
    cpu = platform.processor() or platform.machine()
    entry: dict[str, Any] = {
        "command": _command(run),
        "folder": str(Path.cwd()),
        "time": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "git": _git(run.folder / f"changes-{len(entries)}.patch"),
        "versions": {"python": platform.python_version()} | {name: _installed().get(name) for name in PACKAGES},
        "packages": packages.name,
        "device": {
            "type": device.type,
            "name": torch.cuda.get_device_name(device) if device.type == "cuda" else cpu,
            "processes": trainer.world_size,
            "machine": platform.platform(),
        },
    }
    if checksums := getattr(getattr(trainer, "datamodule", None), "checksums", None):
        entry["data"] = checksums()
    first = _flat(yaml.safe_load((run.folder / "config.yaml").read_text(encoding="utf-8")))
    changed = {name: value for name, value in _flat(run.config).items() if name not in first or first[name] != value}
    if changed:
        entry["changed"] = changed
    with write_whole(path) as part:
        part.write_text(yaml.safe_dump([*entries, entry], sort_keys=False, width=1000), encoding="utf-8")
    return entry


def _command(run: Run) -> str:
    if Path(sys.argv[0]).parts[-2:] == ("src", "__main__.py") and run.verb in sys.argv[1:]:
        return shlex.join(["python", "-m", "src", *sys.argv[1:]])
    # A notebook, a script or a tool called `main`; its options are in the config.
    return shlex.join(["python", "-m", "src", run.verb, "--config", str(shorten(run.folder / "config.yaml"))])


def _flat(node: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in node.items():
        flat |= _flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {f"{prefix}{name}": value}
    return flat


@functools.cache
def _installed() -> dict[str, str]:
    # Of two by one name Python imports the first.
    metadata = (each.metadata for each in reversed([*importlib.metadata.distributions()]))  # each is parsed once
    return {each["Name"]: each["Version"] for each in metadata if each["Name"]}


def _git(patch: Path) -> dict[str, Any] | None:
    """Write the patch; returns its name and the commit, None where there is no repository."""
    if not (commit := _run_git("rev-parse", "HEAD")):
        return None
    listed = (_run_git("ls-files", "-z", "--others", "--exclude-standard", *NEW) or b"").split(b"\0")
    paths = {name: PROJECT / os.fsdecode(name) for name in listed if name}
    sizes = {name: path.lstat().st_size for name, path in paths.items() if path.is_file()}
    with tempfile.TemporaryDirectory() as place, patch.open("wb") as file:
        # One `git diff` has the new files, too, with a copy of the index that names them; git's own stays as it is.
        index = PROJECT / os.fsdecode(_run_git("rev-parse", "--git-path", "index")).strip()
        env = {"GIT_INDEX_FILE": str(Path(place, "index"))}
        if index.exists():
            shutil.copy2(index, env["GIT_INDEX_FILE"])  # with its time, by which git knows what changed since
        names = b"\0".join(name for name, size in sizes.items() if size <= LARGEST)
        add = ("--literal-pathspecs", "add", "--intent-to-add", "--pathspec-from-file=-", "--pathspec-file-nul")
        _run_git(*add, env=env, input=names)
        done = _run_git(*DIFF, "HEAD", env=env, stdout=file) is not None
    entry: dict[str, Any] = {"commit": commit.decode().strip(), "changes": patch.name}
    if not done or not patch.stat().st_size:
        patch.unlink()
        entry["changes"] = None if done else "unknown, git diff failed"
    if large := [os.fsdecode(name) for name, size in sizes.items() if size > LARGEST]:
        entry["too_large"] = large
    return entry


def _run_git(*args: str, env: dict[str, str] | None = None, **options: Any) -> Any:
    """Return what git prints; None where it is not there or fails."""
    options = {"stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL, "timeout": 30} | options
    try:
        done: Any = subprocess.run(["git", *args], check=True, cwd=PROJECT, env=os.environ | (env or {}), **options)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout or b""
