"""Repairs of Lightning's loops, for a run that is resumed."""

from collections.abc import Iterable
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.loops.fetchers import _DataLoaderIterDataFetcher


def step_plateau(trainer: pl.Trainer) -> None:
    """Let a ReduceLROnPlateau see a resumed epoch, at its end; Lightning skips it there (its issue 14699)."""
    if trainer.fit_loop.restarting and trainer.is_last_batch:
        trainer.fit_loop.epoch_loop.update_lr_schedulers("epoch", update_plateau_schedulers=True)


def weight_of_the_rest(trainer: pl.Trainer) -> float:
    """Return the factor for the loss where the last step of an epoch accumulates fewer batches than others.

    Lightning divides by the full number (its issue 19987). In an epoch of unknown length the factor is 1.
    """
    every, total = trainer.accumulate_grad_batches, trainer.num_training_batches
    first = trainer.fit_loop.batch_idx // every * every
    return every / min(every, total - first)


def training_weight(trainer: pl.Trainer) -> float:
    """Return what the present training batch of this process counts for in the mean over all processes."""
    loader: Any = trainer.fit_loop._combined_loader.flattened[0]  # type: ignore[union-attr]
    return float(loader.weight_of(trainer.fit_loop.batch_idx)) if hasattr(loader, "weight_of") else 1.0


def is_padding(trainer: pl.Trainer) -> bool:
    """Return whether this process has no row of its own in the present training batch, which then weighs nothing."""
    return trainer.world_size > 1 and training_weight(trainer) == 0


def take_up_progress(trainer: pl.Trainer, loops: dict[str, Any]) -> None:
    """Set `global_step` and `current_epoch` of an evaluation to the checkpoint's: a loss may depend on them."""
    fit, epoch = trainer.fit_loop, trainer.fit_loop.epoch_loop
    automatic, manual = epoch.automatic_optimization.optim_progress, epoch.manual_optimization.optim_step_progress
    fit.epoch_progress.load_state_dict(loops["epoch_progress"])
    automatic.load_state_dict(loops["epoch_loop.automatic_optimization.optim_progress"])
    manual.load_state_dict(loops["epoch_loop.manual_optimization.optim_step_progress"])


def align_reloads(trainer: pl.Trainer) -> None:
    """Reload loaders in the same epochs as a run that never stopped; Lightning counts from the resume.

    Call it when training starts.
    """
    if trainer.reload_dataloaders_every_n_epochs:  # type: ignore[attr-defined]
        begun = FitProgress(trainer).first_epoch()
        trainer.fit_loop._last_train_dl_reload_epoch = begun
        trainer.fit_loop.epoch_loop.val_loop._last_val_dl_reload_epoch = begun


def reset_loop_counters(loops: dict[str, Any], trainer: pl.Trainer) -> None:
    """Reset the loop counters of a checkpoint between two epochs, so that the next epoch starts at batch 0.

    Otherwise Lightning takes the batches of the finished epoch for those of the next one, and skips it. Lightning issue
    19617 has a case of it: `max_steps` that end with an epoch.
    """
    # A batch at which `on_train_batch_start` returned -1 is never started nor completed. From then on Lightning would
    # not see by its totals that a checkpoint was saved at the end of a batch.
    batches = loops["epoch_loop.batch_progress"]
    for key, value in batches["current"].items():
        batches["total"][key] = batches["total"]["ready"] - batches["current"]["ready"] + value
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
    batches["is_last_batch"] = validation["is_last_batch"] = False
    validation["total"] = dict.fromkeys(validation["total"], 0)
    # With max_steps Lightning restarts each epoch. If a validation seems due at its start, the first round trains
    # nothing but is counted as a batch. The same issue.
    if trainer.max_steps == -1 or not trainer.enable_validation or trainer.val_check_batch is None:
        return
    every, done = trainer.check_val_every_n_epoch, batches["total"]["completed"]
    if (trainer.current_epoch + 1) % every == 0 if every else done % trainer.val_check_batch == 0:
        loops["epoch_loop.state_dict"]["_batches_that_stepped"] -= 1


class FitProgress:
    """Counts the batches of the running epoch as a fit's loops do: a loader's position follows from it.

    Lightning keeps two counts. `batch_progress` is one behind for a loader that starts again while a batch is fetched
    ahead; the fetcher begins at 0 in a resumed run. The greater one is right.
    """

    def __init__(self, trainer: pl.Trainer) -> None:
        self._loop = trainer.fit_loop

    def trained(self) -> int:
        """Return how many batches of the epoch were trained on; 0 between two epochs."""
        epochs: Any = self._loop.epoch_progress.current
        return self._loop.epoch_loop.batch_progress.current.ready if epochs.processed < epochs.started else 0

    def fetched(self) -> int:
        """Return how many batches of the epoch come before the one that is being fetched."""
        fetcher = self._loop._data_fetcher
        if isinstance(fetcher, _DataLoaderIterDataFetcher):
            return fetcher.fetched  # a step that fetches by itself does so when its batch counts as ready
        return max(self.trained(), fetcher.fetched if fetcher else 0)

    def first_epoch(self) -> int:
        """Return the epoch for which the loaders were made, in a run that was never stopped."""
        trainer: Any = self._loop.trainer
        every = trainer.reload_dataloaders_every_n_epochs
        return trainer.current_epoch // every * every if every else 0

    @property
    def cycles(self) -> bool:
        """Return whether an exhausted loader starts again as long as another one is not exhausted."""
        loader = self._loop._combined_loader
        return loader is None or loader._mode == "max_size_cycle"

    def note_exhausted(self, loader: Any) -> None:
        """Note that a loader was exhausted in this epoch.

        Lightning does not save which were: a resumed epoch of unknown length would get more batches. No issue known.
        """
        combined: Any = self._loop._combined_loader
        consumed = getattr(combined._iterator, "_consumed", [])
        consumed[:] = [gone or each is loader for gone, each in zip(consumed, combined.flattened, strict=False)]


def hand_back_between_epochs(trainer: pl.Trainer, loaders: Iterable[Any]) -> None:
    """Load the states of a checkpoint between two epochs when the training loaders are made.

    Lightning loads only those within an epoch.
    """
    states = trainer.fit_loop._combined_loader_states_to_load
    if not trainer.fit_loop.restarting:
        for loader in loaders:
            if states and hasattr(loader, "load_state_dict") and hasattr(loader, "state_dict"):
                loader.load_state_dict(states.pop(0))
