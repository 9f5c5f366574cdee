"""Share what export and demo start from: a trained net with the loader of its data."""

import copy
import inspect
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningDataModule, LightningModule
from lightning.pytorch.utilities import CombinedLoader
from lightning.pytorch.utilities.model_helpers import is_overridden

from src.cli import main
from src.tools.common import written_to


@dataclass
class Trained:
    """Holds a trained net, on the CPU in 32 bits and set to evaluate, with the loader of its data.

    Args:
        path: The checkpoint file.
        module: The LightningModule.
        datamodule: Already set up; None if the module has its own loaders.
        loader: The first loader of the stage.
    """

    path: Path
    module: LightningModule
    datamodule: LightningDataModule | None
    loader: Any

    def __post_init__(self) -> None:
        """Take the transform off a loader of tensors: `transform` keeps it."""
        self.loader = copy.copy(self.loader)
        has_own = hasattr(self.loader, "tensors") and getattr(self.loader, "transform", None)
        self.transform = self.loader.transform if has_own else lambda x: x
        if has_own:
            self.loader.transform = None

    def predict(self, batch: Any) -> Any:
        """Return what `predict_step` returns for a batch, after the hooks of its transfer."""
        with torch.no_grad():
            for hook in ("on_before_batch_transfer", "on_after_batch_transfer"):
                # As in Lightning, the data module's takes the place of the module's.
                owner: Any = self.datamodule if is_overridden(hook, self.datamodule) else self.module
                batch = getattr(owner, hook)(batch, 0)
            takes = len(inspect.signature(self.module.predict_step).parameters)  # the batch alone is allowed
            return self.module.predict_step(*(batch, 0)[:takes])


def load_trained(path: Path, options: list[str]) -> Trained:
    """Load a checkpoint and its data by running one batch of `predict`, or of `test` or `validate`.

    Args:
        path: A checkpoint, or a run's folder, which stands for its best checkpoint.
        options: Further ones of the verb, such as `--data.root`.

    Raises:
        SystemExit: If none of the verbs can be run; with the line of `test`.
    """
    path = path.expanduser()
    path = next((each for each in (path / "checkpoints/best.ckpt", path / "best.ckpt") if each.exists()), path)
    words = ["--ckpt_path", path, "--trainer.accelerator=cpu", "--trainer.devices=1"]
    words += ["--trainer.precision=32-true", "--trainer.callbacks=null", "--trainer.logger=false"]
    words += ["--track.tensorboard=false", "--track.wandb=null", "--track.mlflow=null", *options]
    reasons = {}
    with tempfile.TemporaryDirectory() as temporary:
        for verb, stage in (("predict", "predict"), ("test", "test"), ("validate", "val")):
            folder = Path(temporary, verb)
            try:
                with written_to(Path(temporary, "output.txt")):
                    cli = main([verb, *words, f"--trainer.limit_{stage}_batches=1"], folder=folder)
            except SystemExit as stop:
                if isinstance(stop.code, int) and stop.code >= 128:  # by a signal
                    raise
                reasons[verb] = stop.code
                continue
            loaders = CombinedLoader(getattr(cli.trainer, f"{stage}_dataloaders")).flattened
            return Trained(cli.ckpt_path or path, cli.model.eval(), cli.datamodule, loaders[0])
    sys.exit(reasons["test"])
