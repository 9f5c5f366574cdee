"""The template, started as its users start it, and the DataLoaders as a run drives them; see handwritten.py."""

import functools
import io
import tempfile
import time
from contextlib import redirect_stdout
from typing import Any
from unittest.mock import patch

from lightning.pytorch import Trainer

from src.cli import main
from src.engine.data.loaders import MapLoader
from src.engine.data.order import Role
from tests.benchmarks.handwritten import drain, image_loader, tensor_loader


class Terminal(io.StringIO):
    """Takes what is printed and claims to be a terminal, so that the progress bar is drawn."""

    def isatty(self) -> bool:
        return True


def fit(experiment: str, *options: str) -> dict[str, Any]:
    """Run `fit --config configs/<experiment>.yaml`; `seconds` is the time of Trainer.fit, which sets up the data."""
    result: dict[str, Any] = {}
    real_fit = Trainer.fit

    @functools.wraps(real_fit)  # Lightning makes options of its signature
    def timed_fit(trainer: Trainer, *args: Any, **kwargs: Any) -> None:
        start_s = time.perf_counter()
        real_fit(trainer, *args, **kwargs)
        result.update(seconds=time.perf_counter() - start_s, work=trainer.global_step)

    with tempfile.TemporaryDirectory() as folder, patch.object(Trainer, "fit", timed_fit), redirect_stdout(Terminal()):
        main(["fit", "--config", f"configs/{experiment}.yaml", "--trainer.default_root_dir", folder, *options])
    return result


def mnist(seed: int) -> dict[str, Any]:
    return fit("mnist", "--seed_everything", str(seed))


def xor(seed: int) -> dict[str, Any]:
    return fit("xor")


def images(seed: int) -> dict[str, Any]:
    return drain(MapLoader(image_loader(), Role()), passes=1)


def tensors(seed: int) -> dict[str, Any]:
    return drain(MapLoader(tensor_loader(), Role()), passes=20)
