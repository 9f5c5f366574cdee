"""Share what export and demo start from: a trained net that predicts from the raw tensors of its data."""

import copy
import inspect
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightning.pytorch import LightningModule
from lightning.pytorch.utilities import CombinedLoader
from lightning.pytorch.utilities.model_helpers import is_overridden
from torch import Tensor, nn

from src.cli import main
from src.tools.common import written_to


class Predictor(nn.Module):
    """Computes what `predict` does with the tensors of a batch as its loader stores them, on the CPU in 32 bits.

    Args:
        path: The checkpoint file.
        module: The LightningModule.
        datamodule: Already set up; None if the module has its own loaders.
        loader: Its first batch gives the structure of all, and what is no tensor.
    """

    def __init__(self, path: Path, module: LightningModule, datamodule: Any, loader: Any) -> None:
        super().__init__()
        self.path, self.module, self.datamodule = path, module, datamodule
        self.eval().requires_grad_(False)
        loader = copy.copy(loader)
        self.transform = getattr(loader, "transform", None) if hasattr(loader, "tensors") else None
        if self.transform:  # a part of the prediction, so that batches are as they are stored
            loader.transform = None
        self.batch = next(iter(loader))

    def forward(self, **fields: Tensor) -> Any:
        """Return what `predict_step` returns for the first batch with these tensors in it, each (B, ...)."""
        fields = named(self.batch) | fields
        if self.transform:
            first = next(iter(fields))
            fields[first] = self.transform(fields[first])
        batch: Any = fields.get("x")
        if isinstance(self.batch, Mapping):
            batch = {**self.batch, **fields}
        elif isinstance(self.batch, tuple | list):
            batch = tuple(fields.get(f"x{k or ''}", part) for k, part in enumerate(self.batch))
        for hook in ("on_before_batch_transfer", "on_after_batch_transfer"):
            # As in Lightning, the data module's takes the place of the module's.
            owner: Any = self.datamodule if is_overridden(hook, self.datamodule) else self.module
            batch = getattr(owner, hook)(batch, 0)
        takes = len(inspect.signature(self.module.predict_step).parameters)  # the batch alone is allowed
        return self.module.predict_step(*(batch, 0)[:takes])


def named(value: Any, name: str = "x") -> dict[str, Tensor]:
    """Return the tensors of a batch or an output: those of a dict, `x` for a tensor, `x`, `x1`, `x2` for a tuple."""
    entries = value if isinstance(value, tuple | list) else [value]
    numbered = {f"{name}{k or ''}": entry for k, entry in enumerate(entries)}
    parts: Mapping[Any, Any] = value if isinstance(value, Mapping) else numbered
    return {str(key): part for key, part in parts.items() if isinstance(part, Tensor)}


def load_trained(path: Path, options: list[str]) -> Predictor:
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
            try:
                with written_to(Path(temporary, "output.txt")):
                    cli = main([verb, *words, f"--trainer.limit_{stage}_batches=1"], folder=Path(temporary, verb))
            except SystemExit as stop:
                if isinstance(stop.code, int) and stop.code >= 128:  # by a signal
                    raise
                reasons[verb] = stop.code
            else:
                loaders = CombinedLoader(getattr(cli.trainer, f"{stage}_dataloaders")).flattened
                return Predictor(cli.ckpt_path or path, cli.model, cli.datamodule, loaders[0])
    sys.exit(reasons["test"])
