"""When one of several processes ends, the others leave without a word: its error stays the last one on the screen."""

import contextlib
import re
import signal
import subprocess
import sys

from lightning.pytorch import Callback, LightningModule, Trainer

# What the others meet in a collective operation; gloo's words, the store's and NCCL's.
GONE = r"gloo/transport|closed by peer|reset by peer|[Bb]roken pipe|failed to recv|remote process exited"
CHILD_ENDS_WITHIN_S = 20


class Processes(Callback):
    """Ends a process that lost another. One that was killed cannot tell: the one that started it does."""

    def on_exception(self, trainer: Trainer, module: LightningModule, exception: BaseException) -> None:
        if trainer.world_size == 1 or not isinstance(exception, RuntimeError) or not re.search(GONE, str(exception)):
            return
        # Those that Lightning started; torchrun and SLURM tell of theirs.
        for rank, child in enumerate(getattr(trainer.strategy.launcher, "procs", []), start=1):
            code = 0
            with contextlib.suppress(subprocess.TimeoutExpired):
                code = child.wait(CHILD_ENDS_WITHIN_S)
            if code < 0:
                name = signal.Signals(-code).name
                reason = ": the system does so when memory runs out" if name == "SIGKILL" else ""
                print(f"error: local rank {rank} (pid {child.pid}) was ended by {name}{reason}", file=sys.stderr)
        sys.exit(1)
