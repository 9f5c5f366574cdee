"""SIGTERM, Ctrl-C and a closed terminal: save at the next step, say how to go on, and leave with a code that tells."""

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from types import FrameType
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer

from src.engine.data.workers import keep_workers, let_workers_go
from src.engine.errors import UserError
from src.engine.paths import pasted
from src.engine.processes import CHILD_ENDS_WITHIN_S
from src.engine.run.run import RunCallback

STOP = ("SIGTERM", "SIGINT", "SIGHUP")
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
        self._listening = self._training = False
        self._got: int | None = None
        self._got_at_s = 0.0
        self._asked = False
        self._before: dict[int, Any] = {}

    def setup(self, trainer: Trainer, module: LightningModule, stage: str) -> None:
        # Lightning sets its handlers after this, and puts back at the end what was there before both.
        self._listening = self._training = False

    def on_sanity_check_start(self, trainer: Trainer, module: LightningModule) -> None:
        self._listen(trainer)

    def on_validation_start(self, trainer: Trainer, module: LightningModule) -> None:
        self._listen(trainer)

    def on_test_start(self, trainer: Trainer, module: LightningModule) -> None:
        self._listen(trainer)

    def on_predict_start(self, trainer: Trainer, module: LightningModule) -> None:
        self._listen(trainer)

    def on_train_start(self, trainer: Trainer, module: LightningModule) -> None:
        keep_workers()
        self._listen(trainer)
        self._training = True
        for number in (getattr(signal, name) for name in REQUEUE if hasattr(signal, name)):
            before = signal.getsignal(number)
            if callable(before) and threading.current_thread() is threading.main_thread():
                self._before[number] = before
                signal.signal(number, self._receive)

    def _listen(self, trainer: Trainer) -> None:
        """Take over the signals, once a stage."""
        if self._listening:
            return
        self._listening, self._trainer, self._pid = True, trainer, os.getpid()
        self._got, self._asked, self._before = None, False, {}
        if threading.current_thread() is not threading.main_thread():
            return  # signals are the main thread's
        for name in STOP:
            number = getattr(signal, name, None)
            if number and not (name == "SIGHUP" and signal.getsignal(number) == signal.SIG_IGN):  # nohup
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
        if not self._training:
            self._leave(number)
        if self._trainer and self._trainer.is_global_zero:
            again = "; again to stop at once" if signal.Signals(number).name not in REQUEUE else ""
            say(f"{signal.Signals(number).name}: saving at the next step{again}")

    def _leave(self, number: int) -> None:
        """Between two steps there is something to save; anywhere else there is nothing to wait for."""
        trainer = self._trainer
        if trainer is None:
            return
        if trainer.is_global_zero:
            say(f"{signal.Signals(number).name} {self._where(trainer)}")
        if launcher := trainer.strategy.launcher:
            launcher.kill(number)  # the processes that this one started
            for child in getattr(launcher, "procs", []):
                with contextlib.suppress(subprocess.TimeoutExpired):
                    child.wait(CHILD_ENDS_WITHIN_S)
        sys.exit(128 + number)

    def _where(self, trainer: Trainer) -> str:
        """What a signal met outside of training, and how to go on."""
        command = "python -m src"
        if self.run.verb != "fit":
            return f"in {self.run.verb}: nothing was written, start it again"
        if trainer.state.fn != "fit":
            best = self.run.best
            how = f", test it with: {command} test --ckpt_path {pasted(best)}" if best else ""
            return f"in the test: the fit is whole{how}"
        if not trainer.sanity_checking:
            return "after the last step: the fit is whole"
        source = self.run.source
        how = f", go on with: {command} fit --ckpt_path {pasted(source)}" if source else ""
        return f"in the sanity check: nothing was trained yet{how}"

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
                f"go on with: python -m src fit --ckpt_path {pasted(self.run.folder)}"
                if self.run.last.exists()
                else "nothing was saved: this run writes no checkpoints"
            )
            said = f"{below_the_bar()}{signal.Signals(number).name} at step {trainer.global_step}; {how}"
            print(said, file=sys.stderr, flush=True)
        sys.exit(128 + number)

    def on_exception(self, trainer: Trainer, module: LightningModule, exception: BaseException) -> None:
        let_workers_go()
        if isinstance(exception, KeyboardInterrupt) and trainer.is_global_zero:  # where nothing listened yet
            say("SIGINT before the first step; nothing was to save")

    def on_train_end(self, trainer: Trainer, module: LightningModule) -> None:
        if not self._asked:
            self._ask_if_any_got_one(trainer, module)
        self._training = False


def say(text: str) -> None:
    """Print a line from within a handler: it may have interrupted another print."""
    os.write(2, f"{below_the_bar()}{text}\n".encode())


def below_the_bar() -> str:
    """What a line on a terminal begins with, where the progress bar may stand."""
    return "\n" if sys.stderr.isatty() else ""
