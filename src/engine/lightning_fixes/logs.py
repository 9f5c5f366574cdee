"""Repairs what `self.log` collects: figures over all processes and all rows, and a resume that keeps them."""

from collections.abc import Iterator
from dataclasses import fields
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.trainer.connectors.logger_connector.logger_connector import _LoggerConnector
from lightning.pytorch.trainer.connectors.logger_connector.result import (
    _Metadata,
    _ResultCollection,
    _ResultMetric,
    _Sync,
)
from torch import Tensor

from src.engine.lightning_fixes.loops import is_padding

# Takes the place of the hook's name for means that were counted without `self.log`.
COUNTED = "counted"


def repair_logs(trainer: pl.Trainer) -> None:
    """Let a trainer collect what is logged over all processes; a second call changes nothing."""
    connector = trainer._logger_connector
    if isinstance(connector, _Connector):
        return
    connector.__class__ = _Connector
    fit: Any = trainer.fit_loop.epoch_loop
    for loop in (fit, fit.val_loop, trainer.validate_loop, trainer.test_loop):
        loop._results = Results(trainer, loop._results.training)


def add_to_mean(trainer: pl.Trainer, name: str, mean: Tensor, weight: int | Tensor) -> None:
    """Count a batch in the mean of an epoch at a tenth of the cost of `self.log`; waits for no device.

    Args:
        trainer: A repaired one, within a stage.
        name: Of the logged mean over the epoch and all processes, unless the module logs this name itself.
        mean: Over the batch, a number.
        weight: The number of samples; a batch of 0 counts for nothing.
    """
    results: Any = trainer._results
    mean = mean.detach()
    key = f"{COUNTED}.{name}"
    if key not in results:
        meta = _Metadata(COUNTED, name)
        meta.sync = _Sync()
        results[key] = _ResultMetric(meta, is_tensor=True)
        # A sum in half precision loses digits.
        results[key].value = torch.zeros_like(mean, dtype=torch.promote_types(mean.dtype, torch.float32))
        results[key].cumulated_batch_size = 0
        results[key]._update_count = 1
    result = results[key]
    # The mean over nothing is NaN.
    if not isinstance(weight, int):
        result.value = result.value + (mean.to(result.value) * weight).where(weight > 0, 0)
    elif weight:
        result.value.add_(mean, alpha=weight)
    vars(result).update(cumulated_batch_size=weight + result.cumulated_batch_size, _computed=None)  # setattr is slow


def is_logged(trainer: pl.Trainer, name: str) -> bool:
    """Return whether a process gave `add_to_mean` anything for this name, at the end of an epoch."""
    return f"{COUNTED}.{name}" in (trainer._results or {})


def running_logs(trainer: pl.Trainer) -> dict[str, Any]:
    """Return what this process logged in the running epoch as plain values: Lightning's checkpoint leaves it out.

    At the end of an epoch it is empty: a run that is resumed from there begins the next one.
    """
    epochs: Any = trainer.fit_loop.epoch_progress.current
    results = trainer.fit_loop.epoch_loop._results
    if epochs.processed > epochs.completed or not isinstance(results, Results):
        return {}
    # A resumed run calls `on_train_start` again.
    return {key: _share(each) for key, each in results.items() if _is_ours(each) and each.meta.fx != "on_train_start"}


def set_running_logs(trainer: pl.Trainer, shares: list[dict[str, Any]]) -> None:
    """Take up, as training starts, what `running_logs` returned on the processes whose part this one takes over."""
    results: Any = trainer.fit_loop.epoch_loop._results
    results.resumed = True
    for result, value, count, share in results.combined(shares):
        result.value = value.to(result.value.device, share["value"].dtype)
        if result.meta.is_mean_reduction:
            result.cumulated_batch_size = count.to(result.value.device, share["count"].dtype)


class _Connector(_LoggerConnector):
    """Gathers figures where all processes meet: one of them may have logged nothing."""

    def epoch_end_reached(self) -> None:
        super().epoch_end_reached()
        self.trainer._results.gather()  # type: ignore[union-attr]

    def on_epoch_end(self) -> None:
        self.trainer._results.gather()  # type: ignore[union-attr]
        super().on_epoch_end()


class Results(_ResultCollection):
    """Combines what each process logged by name, weighted by rows, however it was logged.

    Lightning combines with `sync_dist=True` alone. It then pairs the figures of the processes by their order, rounds
    the mean number of rows, and waits for ever in a validation in which one process has a batch more (Lightning issue
    20153). Here processes meet at the end of an epoch only. A value with `on_step` keeps the last step's, over all
    processes. In trackers the curve of such steps is that of one process, unless `sync_dist=True` is given.

    Metrics of torchmetrics, which combine themselves, and values with a `sync_dist_group` are as in Lightning.

    Args:
        trainer: That logs.
        training: Whether these are the results of training.
    """

    def __init__(self, trainer: pl.Trainer, training: bool) -> None:
        super().__init__(training)
        self._trainer = trainer
        self.resumed = False

    def log(self, fx: str, name: str, value: Any, **options: Any) -> None:
        """Collect a value, as Lightning does, without waiting for other processes."""
        if fx == "training_step" and is_padding(self._trainer):
            options["batch_size"] = 0
        if options["reduce_fx"] in (max, min, sum):
            options["reduce_fx"] = options["reduce_fx"].__name__
        grouped = options["sync_dist_group"] is not None
        of_step = self.training and options["on_step"] and not grouped
        options["sync_dist"] &= of_step or grouped
        super().log(fx, name, value, **options)
        if of_step and isinstance(value, Tensor) and self._trainer.world_size > 1:
            # Log the last step for the epoch, too: at its end processes put theirs together.
            name = f"{name}_step" if options["on_epoch"] else name
            self.pop(f"{fx}.step.{name}", None)
            options |= {"on_step": False, "on_epoch": True, "logger": False, "sync_dist": False}
            super().log(f"{fx}.step", name, value, **options)

    def valid_items(self) -> Iterator[tuple[str, Any]]:  # type: ignore[override]
        """Give the counted means first: a number of the same name that a module logs itself takes their place."""
        return iter(sorted(super().valid_items(), key=lambda item: item[1].meta.fx != COUNTED))

    def metrics(self, on_step: bool) -> Any:
        """Give the values of a step or of the epoch."""
        if not on_step and any(map(_is_open, self.values())):
            self.gather()
        return super().metrics(on_step)

    def gather(self) -> None:
        """Combine what is logged so far for the epoch; all processes call it together."""
        if self._trainer.world_size == 1:
            return
        shares: list[Any] = [None] * self._trainer.world_size
        mine = {key: _share(each) for key, each in self.items() if _is_open(each)}
        torch.distributed.all_gather_object(shares, mine)
        for result, value, count, share in self.combined(shares):
            mean = value / count if result.meta.is_mean_reduction else value
            result._computed = mean.to(result.value.device, share["value"].dtype)

    def combined(self, shares: list[dict[str, Any]]) -> Iterator[tuple[Any, Tensor, Tensor, dict[str, Any]]]:
        """Yield each result that some process has, its value and count over all of them, and the first share.

        In double precision, so that the mean of equal numbers is that number.
        """
        for key in dict.fromkeys(key for share in shares for key in share):  # in the same order on all processes
            held = [share[key] for share in shares if key in share]
            if key not in self or self[key].has_reset:  # this process did not log that name
                meta = _Metadata(**held[0]["meta"])
                meta.sync = _Sync(fn=self._trainer.strategy.reduce, **held[0]["sync"])
                self[key] = _ResultMetric(meta, is_tensor=True).to(self._trainer.strategy.root_device)
                self[key]._update_count = 1
            meta, values = self[key].meta, torch.stack([share["value"].double() for share in held])
            value = values.max() if meta.is_max_reduction else values.min() if meta.is_min_reduction else values.sum()
            yield self[key], value, torch.stack([share["count"].double() for share in held]).sum(), held[0]

    def reset(self, metrics: bool | None = None, fx: str | None = None) -> None:
        """Forget what was logged; in an epoch that was resumed, only at its end."""
        self.resumed &= fx is not None
        if fx is None:  # what Lightning resets are tensors
            for key in [key for key, each in self.items() if each.meta.fx == COUNTED]:
                del self[key]
        if not self.resumed:
            super().reset(metrics, fx)


def _is_open(result: _ResultMetric) -> bool:
    """Return whether a result is not yet combined with those of other processes."""
    meta = result.meta
    return _is_ours(result) and meta.on_epoch and result._computed is None


def _is_ours(result: _ResultMetric) -> bool:
    return result.is_tensor and result.meta.sync.group is None and not result.has_reset


def _share(result: Any) -> dict[str, Any]:
    """Return what one process has of a result, as plain values."""
    meta = {field.name: getattr(result.meta, field.name) for field in fields(_Metadata) if field.name != "_sync"}
    meta["reduce_fx"] = result.meta.reduce_fx.__name__
    sync = {"_should": result.meta.sync.should, "rank_zero_only": result.meta.sync.rank_zero_only}
    count = torch.as_tensor(getattr(result, "cumulated_batch_size", 0)).cpu()
    return {"meta": meta, "sync": sync, "value": result.value.detach().cpu(), "count": count}
