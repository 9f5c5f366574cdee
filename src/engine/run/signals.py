"""Answer SIGTERM, Ctrl-C and a closed terminal: save at the next step, say how to resume, leave with the exit code."""

import os
import signal
import sys
import threading
import time
from types import FrameType
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer

from src.engine.data.loaders import keep_workers
from src.engine.paths import pasted
from src.engine.run.run import Run, RunCallback

STOP = ("SIGTERM", "SIGINT", "SIGHUP")
# SLURM sends one before it takes the machine away; with requeueing on, Lightning has a handler there.
REQUEUE = ("SIGUSR1", "SIGUSR2")
# GNU timeout and job managers send a signal twice, to a process and to its group: that is once.
ONCE_S = 0.5
# How often several processes ask each other whether one of them got a signal.
ASK_EVERY_N_BATCHES = 10

_requeue: dict[int, Any] = {}


class Signals(RunCallback):
    """Notes a signal for the checkpoint callback, which saves and leaves; the same signal again ends the run at once.

    Lightning's own handler answers SLURM's requeue signal, after the save. The requeued job finds its run by the job's
    number and resumes it.
    """

    def setup(self, trainer: Trainer, module: LightningModule, stage: str) -> None:
        # Lightning sets its handlers after this, and at the end puts back those of before.
        self._trainer: Trainer | None = None
        self._training, self._got = False, 0

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Take over the signals once a stage; they belong to the main thread."""
        if self._trainer or threading.current_thread() is not threading.main_thread():
            return
        self._trainer, self._pid, self._last = trainer, os.getpid(), (0, 0.0)
        for name in STOP:
            number = getattr(signal, name, None)  # Windows lacks SIGHUP, nohup ignores it
            if number and not (name == "SIGHUP" and signal.getsignal(number) == signal.SIG_IGN):
                signal.signal(number, self._receive)

    on_test_start = on_predict_start = on_validation_start

    def on_train_start(self, trainer: Trainer, module: LightningModule) -> None:
        keep_workers(True)
        self.on_validation_start(trainer, module)
        self._training = True
        _requeue.clear()
        for number in (getattr(signal, name) for name in REQUEUE if hasattr(signal, name)):
            if self._trainer and callable(before := signal.getsignal(number)):
                _requeue[number] = before
                signal.signal(number, self._receive)

    def _receive(self, number: int, frame: FrameType | None) -> None:
        trainer = self._trainer
        if os.getpid() != self._pid or trainer is None:  # a worker of a DataLoader inherits this handler
            return
        (last, last_s), now = self._last, time.monotonic()
        if number == last and number not in _requeue:
            if now - last_s > ONCE_S:
                signal.signal(number, signal.SIG_DFL)
                keep_workers(False)
                sys.exit(128 + number)
            return
        self._last, self._got = (number, now), number
        if self._training:
            again = "" if number in _requeue else "; again to stop at once"
            say(trainer, number, f": saving at the next step{again}")
            return
        what, best = "nothing was written, start it again", self.run.best
        if best and self.run.verb == "fit" and not trainer.sanity_checking:
            what = f"the fit is whole, test it with: python -m src test --ckpt_path {pasted(best)}"
        say(trainer, number, f" in {self.run.verb}: {what}")
        if launcher := trainer.strategy.launcher:
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

    def on_exception(self, trainer: Trainer, module: LightningModule, exception: BaseException) -> None:
        keep_workers(False)


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
