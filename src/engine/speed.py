"""How fast it trains: samples per second, waiting for data and memory, an epoch at a time."""

import time
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor

from src.engine.lightning_fixes.parts import NoProfiler
from src.engine.run import RunCallback
from src.engine.step import count_samples


class DataWait(NoProfiler):
    """Adds up how long the training waited for batches: Lightning tells a profiler before and after each."""

    def __init__(self) -> None:
        super().__init__()
        self.seconds = 0.0
        self._start_s = 0.0

    def start(self, action_name: str) -> None:
        self._start_s = time.perf_counter()

    def stop(self, action_name: str) -> None:
        if action_name.endswith(".train_dataloader_next"):
            self.seconds += time.perf_counter() - self._start_s


class Speed(RunCallback):
    """Tells the trackers after each epoch how it went, and metrics.csv on demand.

    - `train/samples_per_s`, of all processes. Validation does not count, saving does.
    - `train/data_wait_share`: for how much of that time, 0 to 1, the loop waited for its next batch. Not while a
      profiler of yours is on, which tells by itself.
    - `train/max_memory_mib`, on CUDA: the most that tensors took in this training so far, on the device where that is
      most.

    A run that was killed and goes on ends with the same metrics.csv, to the byte, as one that was not. Times are never
    the same twice, so they stay out of it unless asked for.

    Lightning's ThroughputMonitor takes all batches to be of one size and waits for the device at each step;
    its DeviceStatsMonitor sends a hundred numbers at a step.

    Args:
        csv: Write them to metrics.csv, too.
    """

    def __init__(self, csv: bool = False) -> None:
        self.csv = csv
        self._wait = DataWait()
        self._begin()

    def needed(self) -> bool:
        """Where somebody reads it: each callback costs a little at each step."""
        read = self.run.config.get("trainer", {}).get("logger") or any(self.run.config.get("track", {}).values())
        return self.run.verb == "fit" and bool(self.csv or read)

    def setup(self, trainer: Trainer, module: LightningModule, stage: str) -> None:
        if type(getattr(trainer, "profiler", None)) is NoProfiler:
            trainer.profiler = self._wait  # type: ignore[attr-defined]

    def on_train_start(self, trainer: Trainer, module: LightningModule) -> None:
        """A run that goes on amid an epoch does not start that epoch: this is its start."""
        if module.device.type == "cuda":  # a process may train several times
            torch.cuda.reset_peak_memory_stats(module.device)
        self._begin()

    def on_train_epoch_start(self, trainer: Trainer, module: LightningModule) -> None:
        self._begin()

    def _begin(self) -> None:
        self._num_samples = 0
        self._wait.seconds = 0.0
        self._start_s = self._pause_s = time.perf_counter()

    def on_train_batch_end(
        self, trainer: Trainer, module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self._num_samples += count_samples(batch)

    def on_validation_start(self, trainer: Trainer, module: LightningModule) -> None:
        if not trainer.sanity_checking:
            self._pause_s = _now(module)

    def on_validation_end(self, trainer: Trainer, module: LightningModule) -> None:
        if not trainer.sanity_checking:
            self._start_s += _now(module) - self._pause_s

    def on_train_epoch_end(self, trainer: Trainer, module: LightningModule) -> None:
        seconds = max(_now(module) - self._start_s, 1e-9)
        memory = torch.cuda.max_memory_allocated(module.device) / 2**20 if module.device.type == "cuda" else 0.0
        mine = torch.tensor([self._num_samples, seconds, self._wait.seconds / seconds, memory], device=module.device)
        every = trainer.strategy.all_gather(mine).view(-1, 4).cpu()
        numbers = {"train/samples_per_s": every[:, 0].sum() / every[:, 1].max()}
        if getattr(trainer, "profiler", None) is self._wait:
            numbers["train/data_wait_share"] = every[:, 2].mean()
        if module.device.type == "cuda":
            numbers["train/max_memory_mib"] = every[:, 3].max()
        if every[:, 0].sum():  # none where the checkpoint was of the epoch's end
            self._tell(trainer, module, numbers)

    def _tell(self, trainer: Trainer, module: LightningModule, numbers: dict[str, Tensor]) -> None:
        if self.csv:
            for name, value in numbers.items():
                module.log(name, value.to(module.device), sync_dist=True, reduce_fx="max")  # it is the same on all
            return
        values = {name: float(value) for name, value in numbers.items()}
        step = max(trainer.global_step - 1, 0)  # as Lightning numbers what an epoch logs, of a single optimizer
        for logger in trainer.loggers:
            logger.log_metrics(values, step)


def _now(module: LightningModule) -> float:
    """The time at which the device is done: it works on after the host has told it what to do."""
    if module.device.type != "cpu":
        torch.accelerator.synchronize(module.device)
    return time.perf_counter()
