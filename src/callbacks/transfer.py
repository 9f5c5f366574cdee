"""Begins a fit with the net's weights of another run: `--transfer.weights runs/mnist/version_0`."""

from pathlib import Path

from lightning.pytorch import Callback, LightningModule, Trainer

from src.checkpoint import find_checkpoint, mismatches, read_checkpoint


class Transfer(Callback):
    """Takes over the net's weights and nothing else: no optimizer, no position. A resumed run has its own weights.

    Args:
        weights: A run's folder (its last checkpoint) or a checkpoint file.
        skip: Parameters that keep their fresh values, by the beginning of their names: [layers.3] for a new head.
    """

    def __init__(self, weights: Path | None = None, skip: list[str] | None = None) -> None:
        self.weights = weights
        self.skip = skip or []

    def setup(self, trainer: Trainer, module: LightningModule, stage: str) -> None:
        resumed = getattr(trainer.checkpoint_callback, "source", None) is not None
        if self.weights is None or stage != "fit" or resumed:
            return
        net = module.get_submodule("net")
        own, source = net.state_dict(), find_checkpoint(self.weights, "transfer.weights")
        saved = read_checkpoint(source)["state_dict"]
        saved = {name.removeprefix("net."): value for name, value in saved.items() if name.startswith("net.")}
        if unknown := [start for start in self.skip if not any(name.startswith(start) for name in own)]:
            raise ValueError(
                f"transfer.skip: no parameter begins with {', '.join(unknown)}; there are {', '.join(own)}."
            )
        kept = {name for name in own.keys() | saved.keys() if name.startswith(tuple(self.skip))}
        taken = {name: value for name, value in saved.items() if name not in kept}
        if problems := mismatches(taken, {name: value for name, value in own.items() if name not in kept}):
            raise ValueError(
                f"The weights of {source} do not fit: {'; '.join(problems)}. "
                "Leave some out with --transfer.skip [name], or choose the same net."
            )
        net.load_state_dict(own | taken)
        if trainer.is_global_zero:
            print(f"weights from {source}: {len(taken)} of {len(own)} tensors", flush=True)
