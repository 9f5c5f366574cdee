"""The run at hand: what its callbacks know of it."""

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, Trainer


@dataclass
class Run:
    """One object for all callbacks of a run; the command line makes it.

    Attributes:
        verb: `fit`, `validate`, `test` or `predict`.
        config: Every option as plain values, as a checkpoint carries it.
        folder: The run's own. On processes other than rank zero it is known from `setup` on.
        source: The checkpoint that the run begins with, if any.
        monitor: The metric that decides which checkpoint is best.
        best_score: Its value there, once something was validated.
        first_step: Optimizer steps done before this process trained; None until it does.
        stop: The signal after which the run saves and leaves; 0 without one.
    """

    verb: str = "fit"
    config: dict[str, Any] = field(default_factory=dict)
    folder: Path = Path()
    source: Path | None = None
    monitor: str = "val/loss"
    best_score: float | None = None
    first_step: int | None = None
    stop: int = 0

    @property
    def last(self) -> Path:
        """Return the path of the last checkpoint, which may not exist yet."""
        return self.folder / "checkpoints" / "last.ckpt"

    @property
    def best(self) -> Path | None:
        """Return the best checkpoint, or the last where nothing was validated; None before the first."""
        return next((path for path in (self.last.with_name("best.ckpt"), self.last) if path.exists()), None)

    def test_follows(self, stage: str | None) -> bool:
        """Return whether this is a fit whose best checkpoint is tested in the same run."""
        return stage == "fit" and bool(self.config.get("test_after_fit"))


class RunCallback(Callback):
    """A callback that knows the run: one that is on in every run, or a picture that a YAML names."""

    run = Run()  # the command line gives each its own

    def needed(self) -> bool:
        """Return whether this run has something for it to do: Lightning calls each callback some six times a step."""
        return True


def stage_of(name: str) -> str:
    """Return train, val or test by the name of a logged number: `val/acc`, `val_acc`; any other name is training's."""
    found = re.match(r"(val|test)(?:id|idation)?[/_]", name)
    return found[1] if found else "train"


def metrics_of(trainer: Trainer) -> dict[str, float]:
    """Return all that was logged so far in this stage; those of a test never under the name of a validation's."""
    metrics = {name: float(value) for name, value in trainer.callback_metrics.items()}
    if trainer.state.fn != "test":
        return metrics
    # `test_step = validation_step` logs `val/loss`.
    other = re.compile(r"^(?:(?:val|train)(?:id|idation|ing)?[/_])?")
    return {name if stage_of(name) == "test" else other.sub("test/", name): value for name, value in metrics.items()}
