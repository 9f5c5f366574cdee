"""SIGTERM, Ctrl-C and a closed terminal: save at the next step, say how to go on, and leave with a code that tells."""

import os
import shlex
import signal
import sys
import threading
import time
from types import FrameType
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer

from src.engine.errors import UserError
from src.engine.run import RunCallback
from src.engine.workers import keep_workers, let_workers_go

# What SLURM sends before it takes the machine away; with its requeueing on, Lightning has a handler there.
REQUEUE = ("SIGUSR1", "SIGUSR2")
ONCE_S = 0.5


class Signals(RunCallback):
    """Ends a run in good order; the same signal again ends it at once.

    SLURM's requeue signal is answered by Lightning's own handler (it saves and calls `scontrol requeue`), but at a
    point from which a resume is exact. The requeued job finds its run by the job's number and goes on.

    Args:
        every_n_batches: How often several processes ask each other whether one of them got a signal.
    """

    def __init__(self, every_n_batches: int = 10) -> None:
        if every_n_batches < 1:
            raise UserError(f"every_n_batches={every_n_batches} must be at least 1. Set --signals.every_n_batches.")
        self.every_n_batches = every_n_batches
        self._trainer: Trainer | None = None
        self._got: int | None = None
        self._got_at_s = 0.0
        self._asked = False
        self._before: dict[int, Any] = {}

    def on_train_start(self, trainer: Trainer, module: LightningModule) -> None:
        # Only now: Lightning sets its handlers just before. It puts back at the end what was there before both.
        self._trainer, self._got, self._asked, self._pid = trainer, None, False, os.getpid()
        self._before = {}
        keep_workers()
        if threading.current_thread() is not threading.main_thread():
            return  # signals are the main thread's
        for name in ("SIGTERM", "SIGINT", "SIGHUP", *REQUEUE):
            number = getattr(signal, name, None)
            before = number and signal.getsignal(number)
            ignored = name == "SIGHUP" and before == signal.SIG_IGN  # nohup
            if number and not ignored and (name not in REQUEUE or callable(before)):
                self._before[number] = before
                signal.signal(number, self._receive)

    def _receive(self, number: int, frame: FrameType | None) -> None:
        if os.getpid() != self._pid:  # a worker of a DataLoader, which inherits this handler
            return
        if number == self._got:
            # GNU timeout and job managers send a signal twice, to a process and to its group: that is once.
            meant = time.monotonic() - self._got_at_s > ONCE_S
            if meant and signal.Signals(number).name not in REQUEUE:
                signal.signal(number, signal.SIG_DFL)
                let_workers_go()
                sys.exit(128 + number)
            return
        self._got, self._got_at_s = number, time.monotonic()
        if self._trainer and self._trainer.is_global_zero:
            again = "; again to stop at once" if signal.Signals(number).name not in REQUEUE else ""
            # print may be what the signal interrupted.
            os.write(2, f"{below_the_bar()}{signal.Signals(number).name}: saving at the next step{again}\n".encode())

    def on_train_batch_end(
        self, trainer: Trainer, module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if self._asked or (trainer.world_size > 1 and trainer.fit_loop.total_batch_idx % self.every_n_batches):
            return
        self._ask_if_any_got_one(trainer, module)

    def _ask_if_any_got_one(self, trainer: Trainer, module: LightningModule) -> None:
        got = self._got or 0
        if trainer.world_size > 1:
            got = int(trainer.strategy.reduce(torch.tensor(got, device=module.device), reduce_op="max"))
        if got:
            self._ask(trainer, got)

    def _ask(self, trainer: Trainer, number: int) -> None:
        self._asked = True
        if self.run.save_then:
            self.run.save_then(lambda: self._answer(trainer, number))
        else:
            self._answer(trainer, number)

    def _answer(self, trainer: Trainer, number: int) -> None:
        before = self._before.get(number)
        if signal.Signals(number).name in REQUEUE:
            self._got, self._asked = None, False
            if callable(before):
                before(number, None)
            return
        if trainer.is_global_zero:
            how = (
                f"go on with: python -m src fit --ckpt_path {shlex.quote(str(self.run.folder))}"
                if self.run.last.exists()
                else "nothing was saved: this run writes no checkpoints"
            )
            said = f"{below_the_bar()}{signal.Signals(number).name} at step {trainer.global_step}; {how}"
            print(said, file=sys.stderr, flush=True)
        sys.exit(128 + number)

    def on_exception(self, trainer: Trainer, module: LightningModule, exception: BaseException) -> None:
        let_workers_go()

    def on_train_end(self, trainer: Trainer, module: LightningModule) -> None:
        if not self._asked:
            self._ask_if_any_got_one(trainer, module)


def below_the_bar() -> str:
    """What a line on a terminal begins with, where the progress bar may stand."""
    return "\n" if sys.stderr.isatty() else ""
