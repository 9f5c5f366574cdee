"""Begins a fit with the net's weights of another run: `--transfer.weights runs/mnist/version_0`."""

from pathlib import Path

from torch import nn

from src.engine.checkpoint import find_checkpoint, mismatches, read_checkpoint
from src.engine.errors import UserError
from src.engine.ranks import is_rank_zero


class Transfer:
    """Takes over the net's weights and nothing else: no optimizer, no position.

    Args:
        weights: A run's folder (its last checkpoint) or a checkpoint file.
        skip: Parameters that keep their fresh values, by the beginning of their names: [layers.3] for a new head.
    """

    def __init__(self, weights: Path | None = None, skip: list[str] | None = None) -> None:
        self.weights = weights
        self.skip = skip or []

    def into(self, net: nn.Module) -> None:
        """Load the weights, where some are named.

        Raises:
            UserError: If they are not there, or do not fit.
        """
        if self.weights is None:
            return
        own, source = net.state_dict(), find_checkpoint(self.weights, "transfer.weights")
        saved = read_checkpoint(source)["state_dict"]
        saved = {name.removeprefix("net."): value for name, value in saved.items() if name.startswith("net.")}
        if unknown := [start for start in self.skip if not any(name.startswith(start) for name in own)]:
            raise UserError(
                f"transfer.skip: no parameter begins with {', '.join(unknown)}; there are {', '.join(own)}."
            )
        kept = {name for name in own.keys() | saved.keys() if name.startswith(tuple(self.skip))}
        taken = {name: value for name, value in saved.items() if name not in kept}
        if problems := mismatches(taken, {name: value for name, value in own.items() if name not in kept}):
            raise UserError(
                f"The weights of {source} do not fit: {'; '.join(problems)}. "
                "Leave some out with --transfer.skip [name], or choose the same net."
            )
        net.load_state_dict(own | taken)
        if is_rank_zero():
            print(f"weights from {source}: {len(taken)} of {len(own)} tensors", flush=True)
