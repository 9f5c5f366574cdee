"""Each tracker that a run can have: what it needs to be there, and its logger, the same again when the run goes on."""

import importlib.util
import os
import re
import uuid
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import Logger, MLFlowLogger, TensorBoardLogger, WandbLogger

from src.engine.config.instantiate import construct
from src.engine.errors import UserError, one_line
from src.engine.processes import is_rank_zero

# By the option's name: what pip calls it, and the modules of which one has to be there.
PACKAGES = {
    "tensorboard": ("tensorboard", ("tensorboard", "tensorboardX")),
    "wandb": ("wandb", ("wandb",)),
    "mlflow": ("mlflow", ("mlflow",)),
}
# A server that is gone is given up after 15 seconds, in place of five minutes at each of MLflow's calls.
MLFLOW_RETRIES = "3"


def check(asked: dict[str, Any]) -> None:
    """See that each tracker can be had, before anything is made.

    Args:
        asked: Options of `--track`, by name, of those that are turned on.

    Raises:
        UserError: If a package or a login is missing.
    """
    missing = [name for name in asked if not any(map(importlib.util.find_spec, PACKAGES[name][1]))]
    if missing:
        options = ", ".join(f"--track.{name}" for name in missing)
        packages = " ".join(PACKAGES[name][0] for name in missing)
        off = " ".join(f"--track.{name} {'false' if asked[name] is True else 'null'}" for name in missing)
        raise UserError(f"{options}: not installed. Do: python -m pip install {packages}; or go without: {off}")
    if asked.get("wandb") == "online" and is_rank_zero() and (why := _log_in_to_wandb()):
        raise UserError(f"--track.wandb online: {why} Or write offline: --track.wandb offline.")


def _log_in_to_wandb() -> str:
    import wandb

    try:
        wandb.login(verify=False)  # on a terminal it asks
    except Exception as error:  # it has classes of its own
        return one_line(error)
    return ""


def place(experiment: str, folder: Path) -> tuple[str, str]:
    """Split a run's folder into the group that the run belongs to and the run's name there.

    Args:
        experiment: Its name.
        folder: The run's own: runs/<experiment>/sweep_0/version_3, for example.

    Returns:
        "sweep_0" and "version_3"; an empty group for a run of its own, runs/<experiment>/version_3. The group of a
        folder elsewhere is the folder above it.
    """
    own, parts = Path(experiment).parts, folder.parts
    for start in range(len(parts) - len(own) - 1, -1, -1):
        if parts[start : start + len(own)] == own:
            *group, name = parts[start + len(own) :]
            return (group[0], "/".join([*group[1:], name])) if group else ("", name)
    return folder.parent.name, folder.name


def make(name: str, option: Any, folder: Path, experiment: str) -> Logger:
    """Make the logger of a tracker for the run in a folder: a run of its experiment, in the group of its sweep.

    Args:
        name: Of the tracker, as in `PACKAGES`.
        option: What was given for it.
        folder: The run's; keeps by what name or number the tracker knows the run.
        experiment: Its name.

    Raises:
        UserError: If Lightning or the tracker refuses it.
    """
    group, run = place(experiment, folder)
    known = mlflow_id(folder) if name == "mlflow" else folder / f"{name}_id"
    goes_on = known.exists()
    match name:
        case "tensorboard":
            logger = construct(TensorBoardLogger, folder, name="", version="")
        case "mlflow":
            os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", MLFLOW_RETRIES)
            run_id = known.read_text(encoding="utf-8") if goes_on else None
            title = f"{group}/{run}" if group else run
            tags = {"folder": str(folder)} | ({"group": group} if group else {})
            logger = construct(MLFlowLogger, experiment, title, option, tags=tags, run_id=run_id)
        case "wandb":
            title, number = "-".join(filter(None, [experiment, group, run])), _number(known, 8)
            # W&B allows none of these in the name of a project, which stands in its address.
            project = re.sub(r"[/\\#?%:]", "-", experiment)[:128]
            more = {"project": project, "offline": option == "offline", "mode": option, "resume": "allow"}
            logger = construct(WandbLogger, title, folder, id=number, group=group or None, **more)
    made: Logger = logger
    return made


def mlflow_id(folder: Path) -> Path:
    """Where the number stands that MLflow gave the run."""
    return folder / "mlflow_id"


def _number(file: Path, digits: int) -> str:
    if not file.exists():
        file.write_text(uuid.uuid4().hex[:digits], encoding="utf-8")
    return file.read_text(encoding="utf-8")
