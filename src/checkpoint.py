"""Checkpoints as documents: plain values only, written whole or not at all, with the run's config inside."""

import pickle
import shutil
from pathlib import Path
from typing import Any, Literal, TypeVar

import torch
from jsonargparse import ArgumentParser
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint
from torch import Tensor

T = TypeVar("T")


class RunCheckpoint(Checkpoint):
    """Writes `checkpoints/last.ckpt` and `checkpoints/best.ckpt` into the run's folder.

    `last` is written every N steps, between epochs and at the end; `best` after each validation that improves on the best
    one so far. Each is complete in itself and any of them can be resumed.

    Args:
        monitor: The validation metric that decides which one is best.
        mode: Whether a smaller or a larger value is better.
        every_n_steps: Optimizer steps between two `last` checkpoints within an epoch.
    """

    def __init__(
        self, monitor: str = "val/loss", mode: Literal["min", "max"] = "min", every_n_steps: int = 1_000
    ) -> None:
        self.monitor = monitor
        self.mode = mode
        self.every_n_steps = every_n_steps
        self.config: dict[str, Any] = {}
        self.folder = Path()
        self.best_score: float | None = None
        self._saved_at: tuple[int, int] | None = None
        self._due = False

    @property
    def best_model_path(self) -> str:
        """The best checkpoint, or the last where nothing was validated; empty before the first."""
        paths = (
            self.folder / "best.ckpt" if self.best_score is not None else None,
            self.folder / "last.ckpt",
        )
        return next((str(path) for path in paths if path is not None and path.exists()), "")

    def setup(self, trainer: Trainer, module: LightningModule, stage: str) -> None:
        """Agree on the folder: rank zero claimed it."""
        self.folder = Path(trainer.strategy.broadcast(trainer.default_root_dir)) / "checkpoints"

    def on_train_batch_end(
        self, trainer: Trainer, module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Write `last` every N steps."""
        step = trainer.global_step
        self._due |= step % self.every_n_steps == 0 and self._saved_at != (step, trainer.current_epoch)
        # A run resumed from here would leave out a validation that follows, or the end of the epoch: let those save.
        if self._due and not trainer.is_last_batch and not self._validation_follows(trainer, batch_idx):
            self._save_last(trainer)

    @staticmethod
    def _validation_follows(trainer: Trainer, batch_idx: int) -> bool:
        if not trainer.enable_validation or not isinstance(trainer.val_check_batch, int):
            return False
        seen = trainer.fit_loop.total_batch_idx if trainer.check_val_every_n_epoch is None else batch_idx
        return (seen + 1) % trainer.val_check_batch == 0

    def on_validation_end(self, trainer: Trainer, module: LightningModule) -> None:
        """Write `best` if this validation is."""
        if trainer.state.fn != "fit" or trainer.sanity_checking:
            return
        if self.monitor not in trainer.callback_metrics:
            raise ValueError(
                f"checkpoint.monitor={self.monitor!r} is not logged; there are "
                f"{', '.join(sorted(trainer.callback_metrics))}. Set --checkpoint.monitor."
            )
        score = float(trainer.callback_metrics[self.monitor])
        better = self.best_score is None or (score < self.best_score if self.mode == "min" else score > self.best_score)
        if better and score == score:
            self.best_score = score
            self._save(trainer, "best.ckpt")
        if self._due and not trainer.is_last_batch:
            self._save_last(trainer)

    def on_train_epoch_start(self, trainer: Trainer, module: LightningModule) -> None:
        """Write `last` between two epochs, when everything that ends an epoch is done."""
        if trainer.global_step > 0:
            self._save_last(trainer)

    def on_train_end(self, trainer: Trainer, module: LightningModule) -> None:
        """Write the final `last`."""
        self._save_last(trainer)

    def on_save_checkpoint(self, trainer: Trainer, module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Put the config in."""
        checkpoint["config"] = self.config

    def state_dict(self) -> dict[str, Any]:
        """The best score so far."""
        return {"best_score": self.best_score}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from it."""
        self.best_score = state["best_score"]

    def _save_last(self, trainer: Trainer) -> None:
        at = (trainer.global_step, trainer.current_epoch)
        if self._saved_at != at:
            self._save(trainer, "last.ckpt")
        self._saved_at = at
        self._due = False

    def _save(self, trainer: Trainer, name: str) -> None:
        if trainer.fast_dev_run:
            return
        target, part = self.folder / name, self.folder / f".{name}.part"
        try:
            trainer.save_checkpoint(part)
        except OSError as error:
            if part.is_file():
                part.unlink()
            kept = f"The one before is whole: {target}." if target.exists() else "There is none before it."
            raise OSError(f"Cannot write the checkpoint {target}: {error.strerror or error}. {kept}") from error
        if trainer.is_global_zero:
            if target.is_dir():  # sharded, as FSDP writes it
                shutil.rmtree(target)
            part.replace(target)
        trainer.strategy.barrier("checkpoint")


def find_checkpoint(path: str | Path) -> Path:
    """The checkpoint that `path` names: itself, or the last one of a run's folder.

    Raises:
        ValueError: If there is none.
    """
    path = Path(path)
    if (path / "checkpoints").is_dir():
        path = path / "checkpoints" / "last.ckpt"
    if not path.exists():
        raise ValueError(f"ckpt_path={path} does not exist. Name a checkpoint file or a run's folder.")
    if path.is_dir() and not (path / "meta.pt").is_file():
        raise ValueError(f"ckpt_path={path} is a folder without checkpoints. Name a checkpoint file or a run's folder.")
    return path


def read_checkpoint(path: str | Path, map_location: Any = "cpu") -> dict[str, Any]:
    """Read a checkpoint without running anything in it.

    Args:
        path: A checkpoint file; of a sharded one, its folder.
        map_location: Where its tensors go, as for `torch.load`.

    Returns:
        Tensors, numbers, strings, lists and dicts.

    Raises:
        ValueError: If the file is not whole, is no checkpoint of this template, or carries any other object.
    """
    path = Path(path)
    file = path / "meta.pt" if path.is_dir() else path
    try:
        checkpoint = torch.load(file, map_location=map_location, weights_only=True)
    except pickle.UnpicklingError as error:
        reason = next((line for line in str(error).splitlines() if "GLOBAL" in line or "Unsupported" in line), "")
        raise ValueError(
            f"{path} is refused: it holds more than tensors and plain values, and loading it could run foreign code. "
            f"{reason.strip()}".strip()
        ) from error
    except (RuntimeError, EOFError, KeyError, AttributeError, ValueError) as error:
        raise ValueError(
            f"{path} is no whole checkpoint: {str(error).splitlines()[0] if str(error) else 'empty'}"
        ) from error
    if not isinstance(checkpoint, dict) or "config" not in checkpoint:
        raise ValueError(f"{path} is no checkpoint of this template: no config inside. Give the config with --config.")
    return checkpoint


def build(base: type[T], config: dict[str, Any]) -> T:
    """Make the object that a config describes.

    Args:
        base: Its class, or one above it.
        config: `class_path` and `init_args`, as in YAML.
    """
    parser = ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(base, "object", fail_untyped=False)
    made: T = parser.instantiate(parser.parse_object({"object": config})).object
    return made


def check_fit(weights: dict[str, Tensor], module: LightningModule) -> None:
    """Compare a checkpoint's weights with a module's.

    Raises:
        ValueError: If they differ in name or shape; lists how.
    """
    own = module.state_dict()
    problems = [f"missing {name}" for name in own if name not in weights]
    problems += [f"unexpected {name}" for name in weights if name not in own]
    problems += [
        f"{name} has shape {tuple(weights[name].shape)}, the config's net {tuple(value.shape)}"
        for name, value in own.items()
        if name in weights and weights[name].shape != value.shape
    ]
    if problems:
        raise ValueError(
            f"The checkpoint's weights do not fit the net of the config: {'; '.join(problems)}. "
            "Leave --config and --model options away to use the checkpoint's own."
        )
