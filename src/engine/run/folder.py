"""A run's folder: claimed by one process, and found again by a job that was stopped and started anew."""

import contextlib
import itertools
import json
import os
import re
import shutil
from pathlib import Path
from typing import Any

from src.engine.config.files import as_yaml
from src.engine.errors import UserError
from src.engine.paths import at_home
from src.engine.processes import is_rank_zero
from src.engine.run.run import Run


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
    """Remove the folder of a run that did not begin: without an entry in its record; and the one above, if empty."""
    if is_rank_zero() and not (folder / "record.yaml").exists() and not (folder / "checkpoints").exists():
        shutil.rmtree(folder, ignore_errors=True)
        with contextlib.suppress(OSError):
            folder.parent.rmdir()


def find_interrupted(root: Path, config: dict[str, Any]) -> Path | None:
    """Return the last checkpoint of the run with this config that the job had begun when it was started again.

    All processes look for themselves and find the same: `root` lies on a disk that the machines share.
    """
    for job in _jobs():
        for mark in sorted(root.glob(f"*/{job}"), key=lambda mark: mark.stat().st_mtime, reverse=True):
            run = mark.parent
            last = run / "checkpoints" / "last.ckpt"
            if last.exists() and (run / "config.yaml").read_text(encoding="utf-8") == as_yaml(config):
                again = int(os.environ.get("SLURM_RESTART_COUNT", 0)) > 0
                if job.startswith("torchrun"):  # a machine that joins counts no restart
                    again = json.loads((run / "summary.json").read_text(encoding="utf-8"))["state"] != "finished"
                if again:
                    return last
    return None


def _jobs() -> list[str]:
    """Return the names of the jobs that this process is a part of; torchrun's is "none" where it was given none."""
    ids = {"torchrun": os.environ.get("TORCHELASTIC_RUN_ID"), "slurm": os.environ.get("SLURM_JOB_ID")}
    return [re.sub(r"[^\w.-]", "_", f"{kind}-{name}") for kind, name in ids.items() if name not in (None, "none")]
