"""Checkpoints as documents: plain values only, written whole or not at all, with the run's config inside."""

import shutil
import warnings
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Literal, TypeVar

import torch
from jsonargparse import ArgumentParser
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint
from lightning.pytorch.plugins.io import TorchCheckpointIO
from torch import Tensor

T = TypeVar("T")
M = TypeVar("M", bound=LightningModule)


class RunCheckpoint(Checkpoint):
    """Writes `checkpoints/last.ckpt` and `checkpoints/best.ckpt` into the run's folder.

    `last` is written every N steps, between epochs and at the end; `best` after each validation that improves on the
    best one so far. Only at points from which a resume is exact, where one loses no batch and no validation.

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
        self.source: Path | None = None  # that the run begins with; the trainer tells it too late for `setup`
        self.folder = Path()
        self.best_score: float | None = None
        self._saved_at: tuple[int, int] | None = None
        self._due = self._best_due = False
        self._then: Callable[[], None] | None = None

    @property
    def best_model_path(self) -> str:
        """The best checkpoint, or the last where nothing was validated; empty before the first."""
        paths = (
            self.folder / "best.ckpt" if self.best_score is not None else None,
            self.folder / "last.ckpt",
        )
        return next((str(path) for path in paths if path is not None and path.exists()), "")

    def request(self, then: Callable[[], None]) -> None:
        """Write `last` at the next point from which a resume is exact, and call `then` at that point."""
        self._due, self._then = True, then

    def setup(self, trainer: Trainer, module: LightningModule, stage: str) -> None:
        # Rank zero claimed the folder.
        self.folder = Path(trainer.strategy.broadcast(trainer.default_root_dir)) / "checkpoints"

    def on_train_start(self, trainer: Trainer, module: LightningModule) -> None:
        source = Path(str(trainer.ckpt_path))
        if source == self.folder / "last.ckpt":
            self._saved_at = (trainer.global_step, trainer.current_epoch)
        elif trainer.ckpt_path and self.best_score is not None:
            self._bring_best(trainer, source.with_name("best.ckpt"))

    def _bring_best(self, trainer: Trainer, source: Path) -> None:
        """Copy the best checkpoint into the folder of a run that began with a checkpoint of another."""
        target = self.folder / "best.ckpt"
        known = trainer.is_global_zero and source.exists() and not target.exists()
        if known and read_checkpoint(source)["callbacks"][self.state_key]["best_score"] == self.best_score:
            self.folder.mkdir(parents=True, exist_ok=True)
            part = self.folder / ".best.ckpt.part"
            (shutil.copytree if source.is_dir() else shutil.copyfile)(source, part)
            part.replace(target)
        trainer.strategy.barrier("bring_best")

    def on_train_batch_end(
        self, trainer: Trainer, module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        step = trainer.global_step
        self._due |= step > 0 and step % self.every_n_steps == 0 and self._saved_at != (step, trainer.current_epoch)
        # A run resumed from here would leave out a validation that follows: let that one save.
        if not self._validation_follows(trainer, batch_idx):
            self._save_due(trainer)

    @staticmethod
    def _validation_follows(trainer: Trainer, batch_idx: int) -> bool:
        if not trainer.enable_validation or not isinstance(trainer.val_check_batch, int):
            return False
        seen = trainer.fit_loop.total_batch_idx if trainer.check_val_every_n_epoch is None else batch_idx
        return (seen + 1) % trainer.val_check_batch == 0

    def on_validation_end(self, trainer: Trainer, module: LightningModule) -> None:
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
            if self._stopping(trainer):
                self._best_due = True
            else:
                self._save(trainer, "best.ckpt")
        self._save_due(trainer)

    def on_train_epoch_start(self, trainer: Trainer, module: LightningModule) -> None:
        # Only now is everything done that ends the epoch before.
        if trainer.global_step > 0:
            self._save_last(trainer)

    def on_train_end(self, trainer: Trainer, module: LightningModule) -> None:
        if self._best_due:
            self._save(trainer, "best.ckpt")
        self._save_last(trainer)

    def on_save_checkpoint(self, trainer: Trainer, module: LightningModule, checkpoint: dict[str, Any]) -> None:
        checkpoint["config"] = self.config
        settle(checkpoint["loops"]["fit_loop"], trainer.max_steps)

    def state_dict(self) -> dict[str, Any]:
        return {"best_score": self.best_score}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.best_score = state["best_score"]

    @staticmethod
    def _stopping(trainer: Trainer) -> bool:
        """Whether the epoch ends here, before its last batch: a run resumed from here would not know."""
        enough = trainer.current_epoch >= (trainer.min_epochs or 0) and trainer.global_step >= (trainer.min_steps or 0)
        return trainer.should_stop and enough

    def _save_due(self, trainer: Trainer) -> None:
        # The end of an epoch saves when it is done, and gradients are part of no checkpoint.
        accumulating = (trainer.fit_loop.batch_idx + 1) % trainer.accumulate_grad_batches != 0
        if self._due and not (trainer.is_last_batch or self._stopping(trainer) or accumulating):
            self._save_last(trainer)

    def _save_last(self, trainer: Trainer) -> None:
        at = (trainer.global_step, trainer.current_epoch)
        if self._saved_at != at:
            self._save(trainer, "last.ckpt")
        self._saved_at = at
        self._due = False
        then, self._then = self._then, None
        if then:
            then()

    def _save(self, trainer: Trainer, name: str) -> None:
        if getattr(trainer, "fast_dev_run", False):
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


def settle(loops: dict[str, Any], max_steps: int) -> None:
    """Make the loops of a checkpoint between two epochs say that the next epoch begins with its first batch.

    Left alone, Lightning takes the batches of the finished epoch for those of the next one, and skips it.

    Args:
        loops: Of a checkpoint, as Lightning's fit loop puts them in.
        max_steps: The trainer's.
    """
    epochs = loops["epoch_progress"]
    if epochs["total"]["completed"] < epochs["total"]["started"]:
        return
    for counts in epochs.values():
        counts["ready"] = counts["started"]

    def reset(node: dict[str, Any]) -> None:
        for key, value in node.items():
            if key == "current":
                node[key] = dict.fromkeys(value, 0)
            elif isinstance(value, dict) and value is not epochs:
                reset(value)

    reset(loops)
    validation = loops["epoch_loop.val_loop.batch_progress"]
    loops["epoch_loop.batch_progress"]["is_last_batch"] = validation["is_last_batch"] = False
    validation["total"] = dict.fromkeys(validation["total"], 0)
    loops["state_dict"].pop("combined_loader", None)  # a position in the finished epoch
    # With max_steps Lightning restarts each epoch and counts one batch too many.
    if max_steps != -1:
        loops["epoch_loop.state_dict"]["_batches_that_stepped"] -= 1


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


def read_checkpoint(path: str | Path, map_location: Any = "cpu", weights: bool = True) -> dict[str, Any]:
    """Read a checkpoint without running anything in it.

    (The index of a sharded one is torch's own, and a pickle: read such weights from those you trust.)

    Args:
        path: A checkpoint file; of a sharded one, its folder.
        map_location: Where its tensors go, as for `torch.load`.
        weights: Whether to put together the weights of a sharded one.

    Returns:
        Tensors, numbers, strings, lists and dicts. Of a sharded one without the optimizer's states.

    Raises:
        ValueError: If the file is not whole, is no checkpoint of this template, or carries any other object; names the
            newest whole one beside it.
    """
    path = Path(path)
    try:
        checkpoint = _load(path, map_location)
        return checkpoint | {"state_dict": _load_shards(path)} if weights and path.is_dir() else checkpoint
    except ValueError as error:
        beside = sorted(path.parent.glob("*.ckpt"), key=lambda file: file.stat().st_mtime, reverse=True)
        for other in (file for file in beside if file != path):
            try:
                step = _load(other, "cpu")["global_step"]
            except (ValueError, OSError):
                continue
            raise ValueError(f"{error} The newest whole one beside it is {other} (step {step}).") from error
        raise


def _load(path: Path, map_location: Any) -> dict[str, Any]:
    try:
        file = path / "meta.pt" if path.is_dir() else path
        checkpoint = torch.load(file, map_location=map_location, weights_only=True)
    except (FileNotFoundError, PermissionError):
        raise
    except Exception as error:  # torch.load may stumble over foreign bytes in any way
        refused = [line.strip() for line in str(error).splitlines() if "GLOBAL" in line or "Unsupported class" in line]
        if refused:
            raise ValueError(
                f"{path} is refused: it holds more than tensors and plain values, and loading it could run foreign "
                f"code. {refused[0]}"
            ) from error
        size = sum(part.stat().st_size for part in (path.rglob("*") if path.is_dir() else [path]))
        raise ValueError(f"{path} ({size:,} bytes) is no checkpoint, or only a part of one.") from error
    if not isinstance(checkpoint, dict) or "config" not in checkpoint:
        raise ValueError(f"{path} is no checkpoint of this template: it holds no config. Name one that a fit wrote.")
    return checkpoint


def _load_shards(folder: Path) -> dict[str, Tensor]:
    from torch.distributed.checkpoint.filesystem import FileSystemReader  # these take a while to import
    from torch.distributed.checkpoint.metadata import TensorStorageMetadata
    from torch.distributed.checkpoint.state_dict_loader import load

    reader = FileSystemReader(folder)
    found = reader.read_metadata().state_dict_metadata
    weights = {
        name: torch.empty(value.size, dtype=value.properties.dtype)
        for name, value in found.items()
        if name.startswith("model.") and isinstance(value, TensorStorageMetadata)
    }
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "torch.distributed is disabled")  # each process reads all by itself
        load(weights, storage_reader=reader, no_dist=True)
    return {name.removeprefix("model."): value for name, value in weights.items()}


class ShardsIO(TorchCheckpointIO):
    """Reads a sharded checkpoint for a run that is not sharded: a test on one device."""

    def load_checkpoint(self, path: str | Path, *args: Any, **kwargs: Any) -> dict[str, Any]:
        return read_checkpoint(path) if Path(path).is_dir() else super().load_checkpoint(path, *args, **kwargs)


def carried_config(path: Path, verb: str, extras: Iterable[str]) -> dict[str, Any]:
    """The config inside a checkpoint, as far as it concerns a verb.

    Args:
        path: The checkpoint.
        verb: Where a run was trained does not decide where it is evaluated.
        extras: Names of the callbacks there are; one that was deleted since has no say.
    """
    known = {"seed_everything", "trainer", "model", "data", "experiment", "test_after_fit", *extras}
    config = {key: value for key, value in read_checkpoint(path, weights=False)["config"].items() if key in known}
    if verb != "fit":
        place = {"accelerator", "devices", "num_nodes", "strategy"}
        config["trainer"] = {key: value for key, value in config["trainer"].items() if key not in place}
    return config


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


def load_module(base: type[M], path: str | Path, map_location: Any, overrides: dict[str, Any]) -> M:
    """Build the module of a checkpoint's config, with other arguments where given, and load its weights."""
    checkpoint = read_checkpoint(path, map_location)
    config = checkpoint["config"]["model"]
    module = build(base, {**config, "init_args": {**config["init_args"], **overrides}})
    check_fit(checkpoint["state_dict"], module)
    module.load_state_dict(checkpoint["state_dict"])
    return module


def check_fit(weights: dict[str, Tensor], module: LightningModule) -> None:
    """Compare a checkpoint's weights with a module's.

    Raises:
        ValueError: If they differ in name or shape; lists how.
    """
    if problems := mismatches(weights, module.state_dict()):
        raise ValueError(
            f"The checkpoint's weights do not fit the net of the config: {'; '.join(problems)}. "
            "Leave --config and --model options away to use the checkpoint's own."
        )


def mismatches(weights: dict[str, Tensor], own: dict[str, Tensor]) -> list[str]:
    """In words, where a checkpoint's weights differ from a net's own in name or shape."""
    problems = [f"missing {name}" for name in own if name not in weights]
    problems += [f"unexpected {name}" for name in weights if name not in own]
    problems += [
        f"{name} has shape {tuple(weights[name].shape)}, the config's net {tuple(value.shape)}"
        for name, value in own.items()
        if name in weights and weights[name].shape != value.shape
    ]
    return problems
