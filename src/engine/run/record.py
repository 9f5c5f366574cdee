"""Record how a run was made: record.yaml, with the packages and the changes since git's commit beside it."""

import datetime
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

from src.engine.paths import write_whole
from src.engine.run.run import Run

PROJECT = Path(__file__).parents[3]


def add_entry(run: Run, trainer: Trainer) -> dict[str, Any]:
    """Add an entry to `record.yaml` in the run's folder, one for each command that worked on the run.

    An entry holds the command, the time, the git commit with the changes since (a patch, with new Python files and new
    files of configs), the packages (a file that pip can read), the device, and the config of a resume where it differs
    from config.yaml.
    """
    path = run.folder / "record.yaml"
    entries = yaml.safe_load(path.read_text(encoding="utf-8")) if path.exists() else []
    packages = run.folder / f"packages-{len(entries)}.txt"
    packages.write_text(_installed(), encoding="utf-8")
    device = trainer.strategy.root_device
    entry: dict[str, Any] = {
        "command": shlex.join(sys.orig_argv),
        "folder": str(Path.cwd()),
        "time": now(),
        "git": _git(run.folder / f"changes-{len(entries)}.patch"),
        "python": platform.python_version(),
        "packages": packages.name,
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        "processes": trainer.world_size,
        "machine": platform.platform(),
    }
    if entries and run.config != yaml.safe_load((run.folder / "config.yaml").read_text(encoding="utf-8")):
        entry["config"] = run.config
    with write_whole(path) as part:
        part.write_text(yaml.safe_dump([*entries, entry], sort_keys=False, width=1000), encoding="utf-8")
    return entry


def now() -> str:
    """Return the time in UTC, as ISO 8601."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds")


def _installed() -> str:
    """Return a line for each installed package, by the names of their folders: reading their metadata takes 0.2 s."""
    folders = [folder.stem for place in reversed(sys.path) for folder in Path(place).glob("*.dist-info")]
    found = dict(name.split("-", 1) for name in folders)  # of two by one name Python imports the first in sys.path
    return "".join(f"{name}=={version}\n" for name, version in sorted(found.items()))


def _git(patch: Path) -> dict[str, Any] | None:
    """Write what changed since the commit; return the commit and the patch's name, None without a repository."""
    configs = ["configs"] if (PROJECT / "configs").exists() else []
    try:
        commit, index = os.fsdecode(_run_git("rev-parse", "HEAD", "--git-path", "index")).splitlines()
        with tempfile.TemporaryDirectory() as place:
            # A copy of the index names new files; git's own stays as it is. It keeps its time: git compares that.
            copy = shutil.copy2(PROJECT / index, place)
            _run_git("add", "--intent-to-add", "--", "*.py", *configs, ":(exclude)*/site-packages/*", index=copy)
            # Unlike `diff` it takes no user's settings, so that the patch applies.
            diff = _run_git("diff-index", "--patch", "--binary", "HEAD", index=copy)
    except (OSError, subprocess.SubprocessError):  # no git, or no repository
        return None
    if diff:
        patch.write_bytes(diff)
    return {"commit": commit, "changes": patch.name if diff else None}


def _run_git(*args: str, index: str = "") -> bytes:
    env = os.environ | ({"GIT_INDEX_FILE": index} if index else {})
    return subprocess.run(["git", *args], cwd=PROJECT, env=env, check=True, capture_output=True, timeout=30).stdout
