"""Start from a file: the state of a data module, a net with weights of another training."""

import copy
from pathlib import Path

from lightning.pytorch import LightningDataModule
from torch import Tensor, nn

from src.engine.checkpoint.files import find_checkpoint, read_checkpoint, read_plain
from src.engine.errors import UserError
from src.engine.processes import is_rank_zero


def restore_datamodule(datamodule: LightningDataModule, path: Path | None) -> None:
    """Give a data module what it learned from the data (a mean, a vocabulary) before `setup`, which may need it.

    Lightning does so after `setup`.

    Args:
        datamodule: Just made.
        path: The checkpoint that the run starts from, if any.
    """
    state = read_checkpoint(path).get(type(datamodule).__qualname__) if path else None  # the key is Lightning's
    if state is not None:
        # A copy: tensors are read from the disk when they are used, and by then the file may be another one.
        datamodule.load_state_dict(copy.deepcopy(state))


class Transfer:
    """Starts a fit or a test with weights of another training, and with nothing else of it.

    Args:
        weights: A run's folder (its last checkpoint), a checkpoint, or a file of names and tensors: .pt, .pth, .bin,
            .safetensors.
        prefix: Beginning of the net's names in the file, "backbone." for example. It is removed, and weights without it
            are left out. "net." of this template and "module." of DistributedDataParallel are removed without it.
        skip: Parameters that keep their fresh values, by the beginning of their names: [layers.3] for a new head.
    """

    def __init__(
        self, weights: str | Path | None = None, prefix: str | None = None, skip: list[str] | None = None
    ) -> None:
        self.weights = weights
        self.prefix = prefix
        self.skip = tuple(skip or ())

    def into(self, net: nn.Module) -> None:
        """Load the weights, if any are named.

        Raises:
            UserError: If there is no such file, or no parameter to skip.
            RuntimeError: If the weights do not fit; lists how.
        """
        if self.weights is None:
            return
        source = find_checkpoint(self.weights, "transfer.weights")
        held = read_plain(source)
        held = held if isinstance(held, dict) else {}
        # Lightning, many a script and PyTorch's tutorial save the weights under one of these.
        inside = [held.get(key) for key in ("state_dict", "model", "model_state_dict")]
        saved = next((each for each in inside if isinstance(each, dict)), held)
        saved = {name: value for name, value in saved.items() if isinstance(value, Tensor)}
        own = net.state_dict()
        known = [start for start in ("", "net.", "module.") if any(f"{start}{name}" in saved for name in own)]
        prefix = next(iter(known), "") if self.prefix is None else self.prefix
        found = {name.removeprefix(prefix): value for name, value in saved.items() if name.startswith(prefix)}
        if unknown := [start for start in self.skip if not any(name.startswith(start) for name in own)]:
            raise UserError(f"transfer.skip: no name begins with {', '.join(unknown)}; there are {', '.join(own)}.")
        taken = {name: value for name, value in found.items() if not name.startswith(self.skip)}
        net.load_state_dict({name: value for name, value in own.items() if name.startswith(self.skip)} | taken)
        if is_rank_zero():
            print(f"weights from {source}: {len(taken)} of {len(own)} tensors", flush=True)
