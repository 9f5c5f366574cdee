"""Begins a run with weights that another training left: `--transfer.weights runs/mnist/version_0`, or a file."""

from pathlib import Path
from typing import Any

from torch import Tensor, nn

from src.engine.checkpoint.files import find_checkpoint, mismatches, read_plain
from src.engine.errors import UserError
from src.engine.processes import is_rank_zero

# Under which name trainings elsewhere save the weights beside the rest: Lightning, many a script, PyTorch's tutorial.
INSIDE = ("state_dict", "model", "model_state_dict")


class Transfer:
    """Takes over the net's weights and nothing else: no optimizer, no position.

    A test, too, can begin with them, where there is no checkpoint of a run.

    Args:
        weights: A run's folder (its last checkpoint), a checkpoint, or a file of names and tensors: .pt, .pth, .bin,
            .safetensors.
        prefix: What stands before the net's names in the file, and is taken off: "backbone." What does not begin with
            it is left out. By default "net." of a checkpoint of this template, else nothing; "module." of
            DistributedDataParallel goes by itself.
        skip: Parameters that keep their fresh values, by the beginning of their names: [layers.3] for a new head.
    """

    def __init__(
        self, weights: str | Path | None = None, prefix: str | None = None, skip: list[str] | None = None
    ) -> None:
        self.weights = weights
        self.prefix = prefix
        self.skip = skip or []

    def into(self, net: nn.Module) -> None:
        """Load the weights, where some are named.

        Raises:
            UserError: If they are not there, or do not fit.
        """
        if self.weights is None:
            return
        own, source = net.state_dict(), find_checkpoint(self.weights, "transfer.weights")
        saved = self._read(source, own)
        if unknown := [start for start in self.skip if not any(name.startswith(start) for name in own)]:
            raise UserError(
                f"transfer.skip: no parameter begins with {', '.join(unknown)}; there are {', '.join(own)}."
            )
        kept = {name for name in own.keys() | saved.keys() if name.startswith(tuple(self.skip))}
        taken = {name: value for name, value in saved.items() if name not in kept}
        if problems := mismatches(taken, {name: value for name, value in own.items() if name not in kept}):
            before = longer_prefix(saved, own)
            hint = f" Or take {before!r} off the names with --transfer.prefix." if before else ""
            raise UserError(
                f"The weights of {source} do not fit: {'; '.join(problems)}. "
                f"Leave some out with --transfer.skip [name], or choose the same net.{hint}"
            )
        net.load_state_dict(own | taken)
        if is_rank_zero():
            print(f"weights from {source}: {len(taken)} of {len(own)} tensors", flush=True)

    def _read(self, source: Path, own: dict[str, Tensor]) -> dict[str, Tensor]:
        """The weights in a file, by the names that the net has for them."""
        saved, ours = read_weights(source)
        prefix = ("net." if ours else "") if self.prefix is None else self.prefix
        start = "module."
        if all(name.startswith(start) for name in saved) and not f"{prefix}{next(iter(own), '')}".startswith(start):
            saved = {name.removeprefix(start): value for name, value in saved.items()}
        found = {name.removeprefix(prefix): value for name, value in saved.items() if name.startswith(prefix)}
        if not found:
            raise UserError(
                f"transfer.prefix: no weight of {source} begins with {prefix}; there are {', '.join(saved)}."
            )
        return found


def read_weights(path: Path) -> tuple[dict[str, Tensor], bool]:
    """Names and tensors in a file, and whether it is a checkpoint of this template.

    Raises:
        UserError: If it has none.
    """
    held = read_safetensors(path) if path.suffix == ".safetensors" else read_plain(path)
    holder = held if isinstance(held, dict) else {}
    weights = next((holder[key] for key in INSIDE if isinstance(holder.get(key), dict)), holder)
    weights = {name: value for name, value in weights.items() if isinstance(value, Tensor)}
    if not weights:
        names = f"the names {', '.join(map(str, holder))}" if holder else f"a {type(held).__name__}"
        raise UserError(
            f"{path} has no weights: it holds {names}. Wanted are names and tensors, as torch.save(net.state_dict(), "
            f"path) writes them, or these under {' or '.join(INSIDE)}."
        )
    return weights, "config" in holder and "state_dict" in holder


def read_safetensors(path: Path) -> Any:
    """The tensors of a .safetensors file, by name.

    Raises:
        UserError: If the package is missing, or the file is not whole.
    """
    try:
        from safetensors.torch import load_file
    except ImportError as error:
        raise UserError(f"{path} needs a package that is not installed: pip install safetensors") from error
    try:
        return load_file(path)
    except Exception as error:  # its own class, and whatever the system says
        raise UserError(f"{path} is no safetensors file, or only a part of one: {error}") from error


def longer_prefix(saved: dict[str, Tensor], own: dict[str, Tensor]) -> str:
    """What stands before all the net's names in a file, or nothing."""
    starts = [name.removesuffix(first) for first in list(own)[:1] for name in saved if name.endswith(first)]
    return next((start for start in starts if all(f"{start}{name}" in saved for name in own)), "")
