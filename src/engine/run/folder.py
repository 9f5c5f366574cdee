"""A run's folder: claimed by one process, and found again by a job that was stopped and started anew."""

import contextlib
import os
import re
import shutil
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml
from lightning.pytorch import LightningModule, Trainer

from src.engine.config.text import as_yaml
from src.engine.errors import UserError
from src.engine.paths import at_home
from src.engine.processes import is_rank_zero
from src.engine.run.record import add_entry
from src.engine.run.run import RunCallback
from src.engine.run.summary import Summary


class RunFolder(RunCallback):
    """Lets all processes know the folder that rank zero claimed; keeps there the record and the summary of the run."""

    def __init__(self) -> None:
        self._recorded = False

    @cached_property
    def _summary(self) -> Summary:
        return Summary(self.run)

    def setup(self, trainer: Trainer, module: LightningModule, stage: str) -> None:
        self.run.folder = Path(trainer.strategy.broadcast(self.run.folder))
        if trainer.is_global_zero and not self._recorded:  # once for a fit and its test
            try:
                add_entry(self.run, trainer)
                self._summary.begin(trainer, module)
            except OSError as error:
                give_back(self.run.folder)
                raise cannot_write(self.run.folder, error) from error
        self._recorded = True

    def on_train_start(self, trainer: Trainer, module: LightningModule) -> None:
        self._summary.begin_training(trainer)

    def on_train_epoch_start(self, trainer: Trainer, module: LightningModule) -> None:
        """Only now are the numbers of the epoch before complete."""
        self._summary.update(trainer)

    def on_validation_end(self, trainer: Trainer, module: LightningModule) -> None:
        """An epoch may last for days."""
        if trainer.state.fn == "fit" and not (trainer.sanity_checking or trainer.is_last_batch):
            self._summary.update(trainer)

    def on_train_end(self, trainer: Trainer, module: LightningModule) -> None:
        self._summary.update(trainer)

    def teardown(self, trainer: Trainer, module: LightningModule, stage: str) -> None:
        self._summary.end(trainer, stage)

    def on_exception(self, trainer: Trainer, module: LightningModule, exception: BaseException) -> None:
        self._summary.fail(trainer, exception)


def runs_folder(root: str | os.PathLike[str] | None, experiment: str) -> Path:
    """The folder that holds the runs of an experiment: absolute, so that all who write there mean the same.

    Args:
        root: `trainer.default_root_dir`; None is the current folder, as in Lightning.
        experiment: Its name.

    Raises:
        UserError: If it is the address of a server, or fsspec, by which Lightning writes, would take it for two.
    """
    root = os.fspath(root or ".")
    if "://" in root:
        raise UserError(f"trainer.default_root_dir={root} is an address. Name a folder on a disk of this machine.")
    folder = Path(at_home(root), experiment).absolute()
    if "::" in str(folder):
        raise UserError(f"{folder}: a folder of runs cannot have `::` in its path. Set --experiment to another name.")
    return folder


def begin(root: Path, last: Path | None, config: dict[str, Any], own: Path | None = None) -> Path:
    """The folder of a run: `version_<n>`, new; of a run that goes on from its `last.ckpt`, the same.

    Whoever starts from another checkpoint goes back in time: in a new folder, so that nothing is lost.

    Args:
        root: The experiment's folder, which holds those of its runs.
        last: The checkpoint that a fit goes on from, if any.
        config: Of the run, as plain values; written there once.
        own: The folder that whoever called wants for a run that is new.

    Returns:
        The folder; on processes other than rank zero, which write nothing, that may be `root`.
    """
    if last and last.absolute().parts[-2:] == ("checkpoints", "last.ckpt"):
        folder = last.absolute().parent.parent
        if not os.access(folder, os.W_OK):
            raise UserError(f"{folder} is read-only, the run cannot go on there. Copy it to a place for writing.")
    elif is_rank_zero():
        folder = _made(own) if own else _claim(root)
    else:
        return root
    if is_rank_zero():
        try:
            if not (folder / "config.yaml").exists():
                (folder / "config.yaml").write_text(as_yaml(config), encoding="utf-8")
            for name in _jobs():
                (folder / name).touch()
        except OSError as error:
            give_back(folder)
            raise cannot_write(folder, error) from error
    return folder


def _made(folder: Path) -> Path:
    folder = folder.absolute()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise cannot_write(folder, error) from error
    return folder


def _claim(root: Path) -> Path:
    folder = root / "version_0"
    while True:
        try:
            # First the folder above: of a link that leads nowhere, too, it is said that the file exists.
            _made(root)
            # Whoever makes the folder owns it, however many start at the same instant.
            folder.mkdir()
            return folder
        except FileExistsError:
            folder = root / f"version_{int(folder.name.removeprefix('version_')) + 1}"
        except OSError as error:
            give_back(folder)
            raise cannot_write(root, error) from error


def cannot_write(folder: Path, error: OSError) -> UserError:
    """What to say where the system does not let a run write."""
    reason = "there is a file of that name" if isinstance(error, FileExistsError) else error.strerror or error
    return UserError(
        f"Cannot write into {folder}: {reason}. Make room there, or name a place where you may write: "
        "--trainer.default_root_dir."
    )


def give_back(folder: Path) -> None:
    """Remove the folder of a run that did not begin: without an entry in its record; and the one above, if empty."""
    if is_rank_zero() and not (folder / "record.yaml").exists() and not (folder / "checkpoints").exists():
        shutil.rmtree(folder, ignore_errors=True)
        with contextlib.suppress(OSError):
            folder.parent.rmdir()


def end(folder: Path) -> None:
    """Note in the folder that the run came to its end."""
    if is_rank_zero():
        for name in _jobs():
            (folder / name).write_text("done\n", encoding="utf-8")


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
            going = name.startswith("torchrun-") and not mark.read_text(encoding="utf-8")
            again = (restarted or going) and last.exists()
            if again and yaml.safe_load((mark.parent / "config.yaml").read_text(encoding="utf-8")) == config:
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
