"""Share what export and demo start from: a trained net that predicts from the raw tensors of its data."""

import inspect
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightning.pytorch.utilities import CombinedLoader
from lightning.pytorch.utilities.model_helpers import is_overridden
from lightning_utilities.core.apply_func import apply_to_collection
from torch import Tensor, nn

from src.cli import main
from src.tools.common import written_to

# One batch, no tracker.
ONCE = "{trainer: {accelerator: cpu, devices: 1, precision: 32-true, callbacks: null, logger: false, fast_dev_run: 1}}"


def named(value: Any, name: str = "x") -> dict[str, Tensor]:
    """Return the tensors of a batch or an output: those of a dict, `x` for a tensor, `x`, `x1`, `x2` for a tuple."""
    if not isinstance(value, Mapping):
        entries = value if isinstance(value, tuple | list) else [value]
        value = {f"{name}{k or ''}": entry for k, entry in enumerate(entries)}
    return {str(key): part for key, part in value.items() if isinstance(part, Tensor)}


class Trained(nn.Module):
    """Computes what `predict` does with the tensors of a batch as its loader stores them, on the CPU in 32 bits.

    `batch` is the first one of `predict`, or of `test` or `validate`: it gives the structure, and what is no tensor.

    Args:
        path: A checkpoint, or a run's folder, which stands for its best checkpoint.
        options: Further ones of the verb, such as `--data.root`.

    Raises:
        SystemExit: If none of the verbs can be run; with the line of the last one.
    """

    def __init__(self, path: Path, options: list[str]) -> None:
        super().__init__()
        best = path.expanduser() / "checkpoints/best.ckpt"
        words = ["--ckpt_path", best if best.exists() else path, "--config", ONCE, *options]
        with tempfile.TemporaryDirectory() as folder, written_to(Path(folder, "output.txt")):
            for verb, stage in (("predict", "predict"), ("test", "test"), ("validate", "val")):
                try:
                    cli = main([verb, *words], folder=Path(folder, verb))
                    loaders = getattr(cli.trainer, f"{stage}_dataloaders")
                    break
                except (Exception, SystemExit) as stop:
                    if verb == "validate" or isinstance(getattr(stop, "code", ""), int):  # a signal
                        raise
        self.path, self.module, self.datamodule = cli.ckpt_path or path, cli.model, cli.datamodule
        self.net = getattr(cli.model, "net", cli.model)
        self.eval().requires_grad_(False)
        self.transfer = cli.trainer.strategy.batch_to_device
        cli.trainer.predicting = True  # a hook may ask
        loader = CombinedLoader(loaders).flattened[0]
        self.transform = getattr(loader, "transform", None) if hasattr(loader, "tensors") else None
        if self.transform:  # a part of the prediction, so that the batch is as it is stored
            loader.transform = None
        self.batch = next(iter(loader))

    def forward(self, fields: dict[str, Tensor]) -> Any:
        """Return what `predict_step` returns for the batch with these tensors in it, each (B, ...)."""
        given = {id(part): fields[name] for name, part in named(self.batch).items() if name in fields}
        batch = self.prepare(apply_to_collection(self.batch, Tensor, lambda part: given.get(id(part), part)))
        takes = len(inspect.signature(self.module.predict_step).parameters)  # the batch alone is allowed
        return self.module.predict_step(*(batch, 0, 0)[:takes])

    def prepare(self, batch: Any) -> Any:
        """Return a batch as the net takes it."""
        batch = (self.transform(batch[0]), *batch[1:]) if self.transform else batch
        # As in Lightning, the data module's takes the place of the module's.
        owner = self.datamodule if is_overridden("on_before_batch_transfer", self.datamodule) else self.module
        return self.transfer(owner.on_before_batch_transfer(batch, 0))
