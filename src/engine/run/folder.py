"""A run's folder: claimed by one process, found again by a job that was stopped, with a record of how it was made.

The record is record.yaml, with the packages and the changes since git's commit beside it.
"""

import contextlib
import datetime
import itertools
import json
import os
import platform
import re
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

from src.engine.config.compose import as_yaml
from src.engine.errors import UserError
from src.engine.paths import at_home, write_whole
from src.engine.processes import is_rank_zero
from src.engine.run.run import Run

PROJECT = Path(__file__).parents[3]


def runs_folder(root: str | os.PathLike[str] | None, experiment: str) -> Path:
    """Return the absolute folder that holds the runs of an experiment; refuse what Lightning takes for an address."""
    root = os.fspath(root or ".")  # as in Lightning
    folder = Path(at_home(root), experiment).absolute()
    if "://" in root or "::" in str(folder):
        raise UserError(
            f"trainer.default_root_dir={root}, experiment={experiment}: a path with `://` or `::` is an address. Name "
            "a folder on a disk of this machine."
        )
    return folder


def begin(run: Run, root: Path, own: Path | None = None) -> None:
    """Claim the folder of a run below `root`, that of its experiment, and write its config there.

    A fit that resumes from `last.ckpt` continues in the folder of that run. Any other run gets a new `version_<n>`, or
    the folder `own`, so that nothing is overwritten. Processes other than rank zero write nothing and learn it later.
    """
    last = run.source.absolute() if run.source and run.verb == "fit" else Path()
    own = last.parent.parent if last.parts[-2:] == ("checkpoints", "last.ckpt") else own
    run.folder = own.absolute() if own else root
    if not is_rank_zero():
        return
    try:
        run.folder.mkdir(parents=True, exist_ok=True)
        if not own:
            for number in itertools.count():
                with contextlib.suppress(FileExistsError):
                    # The process that makes the folder owns it, however many start at the same instant.
                    (root / f"version_{number}").mkdir()
                    break
            run.folder = root / f"version_{number}"
        with (run.folder / "config.yaml").open("a", encoding="utf-8") as file:  # fails in a folder that is read-only
            file.write("" if file.tell() else as_yaml(run.config))
        for job in _jobs():
            (run.folder / job).touch()
    except OSError as error:
        raise UserError(
            f"Cannot write into {run.folder}: {error.strerror}. Make room there, or name a place where you may write: "
            "--trainer.default_root_dir."
        ) from error


def give_back(folder: Path) -> None:
    """Remove the folder of a run that did not begin: without an entry in its record."""
    if is_rank_zero() and not (folder / "record.yaml").exists() and not (folder / "checkpoints").exists():
        shutil.rmtree(folder, ignore_errors=True)


def find_interrupted(root: Path, config: dict[str, Any]) -> Path | None:
    """Return the last checkpoint of the run with this config that the job had begun when it was started again.

    All processes look for themselves and find the same: `root` lies on a disk that the machines share.
    """
    for job in _jobs():
        for mark in sorted(root.glob(f"*/{job}"), key=lambda mark: mark.stat().st_mtime, reverse=True):
            last = mark.with_name("checkpoints") / "last.ckpt"
            if last.exists() and mark.with_name("config.yaml").read_text(encoding="utf-8") == as_yaml(config):
                again = int(os.environ.get("SLURM_RESTART_COUNT", 0)) > 0
                if job.startswith("torchrun"):  # a machine that joins counts no restart
                    again = json.loads(mark.with_name("summary.json").read_bytes())["state"] != "finished"
                if again:
                    return last
    return None


def _jobs() -> list[str]:
    """Return the names of the jobs that this process is a part of; torchrun's is "none" where it was given none."""
    ids = {"torchrun": os.environ.get("TORCHELASTIC_RUN_ID"), "slurm": os.environ.get("SLURM_JOB_ID")}
    return [re.sub(r"[^\w.-]", "_", f"{kind}-{name}") for kind, name in ids.items() if name not in (None, "none")]


def add_entry(run: Run, trainer: Trainer) -> dict[str, Any]:
    """Add an entry to `record.yaml` in the run's folder, one for each command that worked on the run.

    An entry holds the command, the time, the git commit with the changes since (a patch, with new Python files and new
    files of configs), the packages (a file that pip can read), the device, and the config of a resume where it differs
    from config.yaml.
    """
    path = run.folder / "record.yaml"
    entries = yaml.safe_load(path.read_text(encoding="utf-8")) if path.exists() else []
    packages = run.folder / f"packages-{len(entries)}.txt"
    # To read the metadata of each would take 0.2 s. Of two by one name Python imports the first in sys.path.
    found = [file.stem.split("-", 1) for place in reversed(sys.path) for file in Path(place).glob("*.dist-info")]
    lines = [f"{name}=={version}\n" for name, version in sorted(dict(found).items())]
    packages.write_text("".join(lines), encoding="utf-8")
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
    }
    if entries and run.config != yaml.safe_load((run.folder / "config.yaml").read_text(encoding="utf-8")):
        entry["config"] = run.config
    with write_whole(path) as part:
        part.write_text(yaml.safe_dump([*entries, entry], sort_keys=False, width=1000), encoding="utf-8")
    return entry


def now() -> str:
    """Return the time in UTC, as ISO 8601."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds")


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
