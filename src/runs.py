"""A run's folder: claimed by one process, and found again by a job that was stopped and started anew."""

import logging
import os
import re
from pathlib import Path
from typing import Any

import yaml
from lightning.pytorch.utilities import rank_zero_only


def is_rank_zero() -> bool:
    """Whether this is the process that prints and writes; known before there is a trainer."""
    if "RANK" in os.environ:  # torchrun's, over all machines
        return int(os.environ["RANK"]) == 0
    node = int(os.environ.get("NODE_RANK", os.environ.get("GROUP_RANK", 0)))
    return node == 0 and getattr(rank_zero_only, "rank", 0) == 0


def keep_quiet() -> None:
    """Let rank zero alone tell that the seed is set."""
    if not is_rank_zero():
        logging.getLogger("lightning.fabric").setLevel(logging.WARNING)


def begin(root: Path, last: Path | None, config: dict[str, Any]) -> Path:
    """The folder of a run: `version_<n>`, new; of a run that goes on from its `last.ckpt`, the same.

    Whoever starts from another checkpoint goes back in time: in a new folder, so that nothing is lost.

    Args:
        root: The experiment's folder, which holds those of its runs.
        last: The checkpoint that a fit goes on from, if any.
        config: Of the run, as plain values; written there once.

    Returns:
        The folder; on processes other than rank zero, which write nothing, that may be `root`.
    """
    if last and last.absolute().parts[-2:] == ("checkpoints", "last.ckpt"):
        folder = last.absolute().parent.parent if len(last.parts) < 3 else last.parent.parent
        if not os.access(folder, os.W_OK):
            raise ValueError(f"{folder} is read-only, the run cannot go on there. Copy it to a place for writing.")
    elif is_rank_zero():
        folder = _claim(root)
    else:
        return root
    if is_rank_zero():
        if not (folder / "config.yaml").exists():
            (folder / "config.yaml").write_text(yaml.safe_dump(config, sort_keys=False))
        for name in _jobs():
            (folder / name).touch()
    return folder


def _claim(root: Path) -> Path:
    number = 0
    while True:
        try:
            # Whoever makes the folder owns it, however many start at the same instant.
            (root / f"version_{number}").mkdir(parents=True)
            return root / f"version_{number}"
        except FileExistsError:
            number += 1


def end(folder: Path) -> None:
    """Note in the folder that the run came to its end."""
    if is_rank_zero():
        for name in _jobs():
            (folder / name).write_text("done\n")


def find_interrupted(root: Path, config: dict[str, Any]) -> Path | None:
    """The last checkpoint of the run that this job had begun when it was requeued or its workers were restarted.

    All processes look for themselves and find the same: `root` lies on a disk that the machines share.

    Args:
        root: The experiment's folder.
        config: The run's, as plain values: one job may hold several runs.
    """
    for name, restarted in _jobs().items():
        for mark in sorted(root.glob(f"*/{name}"), key=lambda mark: mark.stat().st_mtime, reverse=True):
            last = mark.parent / "checkpoints" / "last.ckpt"
            # torchrun counts the restarts of each machine by itself: a new one counts none, and still has to join.
            going = name.startswith("torchrun-") and not mark.read_text()
            again = (restarted or going) and last.exists()
            if again and yaml.safe_load((mark.parent / "config.yaml").read_text()) == config:
                return last
    return None


def _jobs() -> dict[str, bool]:
    """Names of the jobs that this process is a part of, and whether each was started again."""
    jobs = {}
    # "none" is every run's name that was given none.
    if (run := os.environ.get("TORCHELASTIC_RUN_ID", "none")) != "none":
        jobs[f"torchrun-{run}"] = int(os.environ.get("TORCHELASTIC_RESTART_COUNT", 0)) > 0
    if "SLURM_JOB_ID" in os.environ:
        jobs[f"slurm-{os.environ['SLURM_JOB_ID']}"] = int(os.environ.get("SLURM_RESTART_COUNT", 0)) > 0
    return {re.sub(r"[^\w.-]", "_", name): restarted for name, restarted in jobs.items()}
