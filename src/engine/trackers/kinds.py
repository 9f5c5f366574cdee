"""Each tracker that a run can have: what it needs to be there, and its logger, the same again when the run goes on."""

import importlib.util
import os
import uuid
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import Logger, MLFlowLogger, TensorBoardLogger, WandbLogger

from src.engine.errors import UserError, one_line
from src.engine.instances import construct
from src.engine.ranks import is_rank_zero

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


def make(name: str, option: Any, folder: Path) -> Logger:
    """The logger of a tracker for the run in a folder.

    Args:
        name: Of the tracker, as in `PACKAGES`.
        option: What was given for it.
        folder: The run's; keeps by what name or number the tracker knows the run.

    Raises:
        UserError: If Lightning or the tracker refuses it.
    """
    experiment = folder.parent.name
    known = mlflow_id(folder) if name == "mlflow" else folder / f"{name}_id"
    goes_on = known.exists()
    match name:
        case "tensorboard":
            logger = construct(TensorBoardLogger, folder, name="", version="")
        case "mlflow":
            os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", MLFLOW_RETRIES)
            run_id = known.read_text(encoding="utf-8") if goes_on else None
            tags = {"folder": str(folder)}
            logger = construct(MLFlowLogger, experiment, folder.name, option, tags=tags, run_id=run_id)
        case "wandb":
            title, number = f"{experiment}-{folder.name}", _number(known, 8)
            more = {"project": experiment, "offline": option == "offline", "mode": option, "resume": "allow"}
            logger = construct(WandbLogger, title, folder, id=number, **more)
    made: Logger = logger
    return made


def mlflow_id(folder: Path) -> Path:
    """Where the number stands that MLflow gave the run."""
    return folder / "mlflow_id"


def _number(file: Path, digits: int) -> str:
    if not file.exists():
        file.write_text(uuid.uuid4().hex[:digits], encoding="utf-8")
    return file.read_text(encoding="utf-8")
