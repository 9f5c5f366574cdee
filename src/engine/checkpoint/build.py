"""Start a net with weights of another training."""

from pathlib import Path

from torch import Tensor, nn

from src.engine.checkpoint.files import find_checkpoint, read_plain
from src.engine.errors import UserError
from src.engine.processes import is_rank_zero


class Transfer:
    """Starts a fit or a test with weights of another training, and with nothing else of it.

    Args:
        weights: A run's folder (its last checkpoint), a checkpoint, or a file of names and tensors: .pt, .pth, .bin,
            .safetensors. What stands before the net's own names there ("net.", "module.", "backbone.") is removed, and
            weights without it are left out.
        skip: Parameters that keep their fresh values, by the beginning of their names: [layers.3] for a new head.
    """

    def __init__(self, weights: str | Path | None = None, skip: list[str] | None = None) -> None:
        self.weights = weights
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
        first = next((name for name in own if not name.startswith(self.skip)), "")
        starts = {name.removesuffix(first) for name in saved if f".{name}".endswith(f".{first}")}
        start = starts.pop() if len(starts) == 1 else ""
        found = {name.removeprefix(start): value for name, value in saved.items() if name.startswith(start)}
        if unknown := [each for each in self.skip if not any(name.startswith(each) for name in own)]:
            raise UserError(f"transfer.skip: no name begins with {', '.join(unknown)}; there are {', '.join(own)}.")
        taken = {name: value for name, value in found.items() if not name.startswith(self.skip)}
        net.load_state_dict({name: value for name, value in own.items() if name.startswith(self.skip)} | taken)
        if is_rank_zero():
            print(f"weights from {source}: {len(taken)} of {len(own)} tensors", flush=True)
