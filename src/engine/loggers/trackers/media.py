"""Pictures for trackers."""

import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import Logger, MLFlowLogger, TensorBoardLogger, WandbLogger
from lightning.pytorch.utilities import rank_zero_only

from src.engine.loggers.trackers.guard import Guard


@rank_zero_only
def send_picture(loggers: Iterable[Logger], name: str, path: Path, step: int) -> None:
    """Send a picture to each logger of a kind that is known here; others, and other processes, do nothing.

    A tracker that fails is told in a line: the picture lies in the run's folder all the same.

    Args:
        loggers: Those of the trainer.
        name: What it shows, `confusion_matrix`; the same name at a later step shows how it grew.
        path: A PNG.
        step: The optimizer's steps up to it.
    """
    for logger in loggers:
        for kind, send in KINDS.items():
            if isinstance(logger, kind):
                Guard(type(logger).__name__).around(send)(logger, name, path, step)


def _to_tensorboard(logger: Any, name: str, path: Path, step: int) -> None:
    import numpy as np
    from PIL import Image

    with Image.open(path) as image:
        logger.experiment.add_image(name, np.asarray(image.convert("RGB")), step, dataformats="HWC")


def _to_wandb(logger: Any, name: str, path: Path, step: int) -> None:
    logger.log_image(name, [str(path)], step)


def _to_mlflow(logger: Any, name: str, path: Path, step: int) -> None:
    from PIL import Image

    with Image.open(path) as image:
        # It takes few letters; two names stay two.
        key = re.sub(r"[^A-Za-z0-9_./ -]", lambda found: f"_{ord(found[0]):x}", name)
        logger.experiment.log_image(logger.run_id, image, key=key, step=step)


KINDS: dict[type[Logger], Callable[[Any, str, Path, int], None]] = {
    TensorBoardLogger: _to_tensorboard,
    WandbLogger: _to_wandb,
    MLFlowLogger: _to_mlflow,
}
