"""Stop a run: at a signal after a save, with the way to resume and the exit code; at a NaN loss before any save."""

import math
import os
import signal
import sys
import threading
import time
from types import FrameType
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor

from src.engine.errors import UserError
from src.engine.paths import pasted
from src.engine.run.run import Run, RunCallback

# Windows has the first two. SLURM sends one of the last two before it takes the machine away.
STOP = [getattr(signal, name) for name in ("SIGTERM", "SIGINT", "SIGHUP") if hasattr(signal, name)]
REQUEUE = [getattr(signal, name) for name in ("SIGUSR1", "SIGUSR2") if hasattr(signal, name)]
# GNU timeout and job managers send a signal twice, to a process and to its group: that is once.
ONCE_S = 0.5
# How often several processes ask each other whether one of them got a signal.
ASK_EVERY_N_BATCHES = 10
# How often losses are checked: to read each at once would wait for a GPU at every step.
CHECK_EVERY_N_BATCHES = 100

_requeue: dict[int, Any] = {}


class Signals(RunCallback):
    """Notes a signal for the checkpoint callback, which saves and leaves; the same signal again ends the run at once.

    Lightning's own handler answers SLURM's requeue signal, after the save. The requeued job finds its run by the job's
    number and resumes it.
    """

    def setup(self, trainer: Trainer, module: LightningModule, stage: str) -> None:
        self._trainer, self._pid = trainer, os.getpid()
        self._training, self._got, self._last = False, 0, (0, 0.0)
        self._may_handle = threading.current_thread() is threading.main_thread()

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Take over the signals: Lightning set its handlers after `setup`, and puts back those of before at the end."""
        for number in STOP:
            if self._may_handle and signal.getsignal(number) != signal.SIG_IGN:  # as `nohup` sets it
                signal.signal(number, self._receive)

    on_test_start = on_predict_start = on_validation_start

    def on_train_start(self, trainer: Trainer, module: LightningModule) -> None:
        self._training = True
        self.on_validation_start(trainer, module)
        _requeue.clear()
        for number in REQUEUE:  # Lightning has a handler there in a SLURM job
            if self._may_handle and callable(before := signal.getsignal(number)):
                _requeue[number] = before
                signal.signal(number, self._receive)

    def _receive(self, number: int, frame: FrameType | None) -> None:
        if os.getpid() != self._pid:  # a worker of a DataLoader inherits this handler
            return
        (last, last_s), self._last = self._last, (number, time.monotonic())
        if number == last and number not in _requeue:
            if self._last[1] - last_s > ONCE_S:
                signal.signal(number, signal.SIG_DFL)
                sys.exit(128 + number)
        elif self._training:
            self._got = number
            say(self._trainer, number, f": saving at the next step{'; again to stop at once' * (number in STOP)}")
        else:
            say(self._trainer, number, f" outside of training: stopped; the run is {pasted(self.run.folder)}")
            if launcher := self._trainer.strategy.launcher:
                launcher.kill(number)  # the processes that this one started
            sys.exit(128 + number)

    def on_train_batch_end(self, trainer: Trainer, module: LightningModule, *rest: Any) -> None:
        if trainer.world_size == 1 or trainer.fit_loop.total_batch_idx % ASK_EVERY_N_BATCHES == 0:
            self._ask(trainer, module)

    def on_train_end(self, trainer: Trainer, module: LightningModule) -> None:
        self._ask(trainer, module)
        self._training = False

    def _ask(self, trainer: Trainer, module: LightningModule) -> None:
        got = self._got
        if trainer.world_size > 1:
            got = int(trainer.strategy.reduce(torch.tensor(got, device=module.device), reduce_op="max"))
        if got:
            self._got, self.run.stop = 0, got
            if not trainer.checkpoint_callbacks:
                leave(trainer, self.run)


def leave(trainer: Trainer, run: Run) -> None:
    """Answer the signal that the run got, once `last.ckpt` is written; all processes call it together."""
    number, run.stop = run.stop, 0
    if number in _requeue:
        _requeue[number](number, None)
        return
    how = "nothing was saved: this run writes no checkpoints"
    if run.last.exists():
        how = f"go on with: python -m src fit --ckpt_path {pasted(run.folder)}"
    say(trainer, number, f" at step {trainer.global_step}; {how}")
    sys.exit(128 + number)


def say(trainer: Trainer, number: int, text: str) -> None:
    """Print a line about a signal, below a terminal's progress bar; a handler may have interrupted another print."""
    if trainer.is_global_zero:
        start = "\n" if sys.stderr.isatty() else ""
        os.write(2, f"{start}{signal.Signals(number).name}{text}\n".encode())


class Finite(RunCallback):
    """Stops at a NaN or infinite loss, and never lets a checkpoint hold NaN or infinite weights.

    Losses are checked every 100 batches, after an epoch and before each checkpoint.

    Args:
        enabled: Whether to check at all.
    """

    def __init__(self, enabled: bool = True) -> None:
        self.enabled = enabled
        self._losses: list[tuple[Tensor, str]] = []

    def needed(self) -> bool:
        return self.enabled

    def on_before_backward(self, trainer: Trainer, module: LightningModule, loss: Tensor) -> None:
        lr = float(trainer.optimizers[0].param_groups[0]["lr"])
        at = f"step {trainer.global_step + 1} (epoch {trainer.current_epoch}, lr {lr:g})"
        self._losses.append((loss.detach(), at))
        if len(self._losses) >= CHECK_EVERY_N_BATCHES:
            self.on_train_epoch_end(trainer, module)

    def on_train_epoch_end(self, trainer: Trainer, module: LightningModule) -> None:
        losses, self._losses = self._losses, []
        values = torch.stack([loss for loss, _ in losses]).tolist() if losses else []
        bad = [f"{value} at {at}" for value, (_, at) in zip(values, losses, strict=True) if not math.isfinite(value)]
        self._stop_if(trainer, bad, f"The loss is {bad[0] if bad else 'not finite on another process'}.")

    def on_save_checkpoint(self, trainer: Trainer, module: LightningModule, checkpoint: dict[str, Any]) -> None:
        self.on_train_epoch_end(trainer, module)
        # A gradient may overflow where its loss does not.
        bad = [name for name, value in module.named_parameters() if not value.isfinite().all()]
        at = f"After step {trainer.global_step} (epoch {trainer.current_epoch})"
        weights = f"NaN or infinite weights, though the loss is finite: {', '.join(bad)}"
        self._stop_if(trainer, bad, f"{at} there are {weights}. Not saved.")

    def _stop_if(self, trainer: Trainer, bad: list[str], why: str) -> None:
        """Raise if one of the processes found something bad; all call it at the same step, and leave together."""
        if trainer.strategy.reduce_boolean_decision(bool(bad), all=False):
            last = self.run.last
            raise UserError(
                f"{why} {f'The last good checkpoint is {last}' if last.exists() else 'There is no checkpoint yet'}. "
                "Lower the learning rate, clip the gradients (--trainer.gradient_clip_val 1), or look at the data; "
                "--finite.enabled false turns this check off."
            )
