"""What a run says on the screen: one line at its start, one per epoch, a bar on a terminal, a few lines at its end."""

import sys
import time
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import TQDMProgressBar

from src.engine.data.batches import count_samples
from src.engine.paths import shorten
from src.engine.run.ending import next_command, why_ended
from src.engine.run.run import RunCallback, metrics_of, stage_of


class Console(RunCallback):
    """Says at the start what is trained and where; at the end how it went, where it lies, what to type next."""

    def __init__(self) -> None:
        self._told = False
        self._num_samples = 0
        self._start_s = self._train_start_s = self._train_s = 0.0
        self._steps_before: int | None = None

    def setup(self, trainer: Trainer, module: LightningModule, stage: str) -> None:
        """Start the clock; the first line stands once for a fit and its test."""
        self._start_s = time.perf_counter()
        if trainer.is_global_zero and not self._told:
            net = getattr(module, "net", module)
            number = sum(parameter.numel() for parameter in module.parameters())
            source = self.run.source
            weights = f"; weights of {source}" if source else "" if stage == "fit" else "; untrained: no --ckpt_path"
            print(f"{type(net).__name__}, {number:,} parameters, on {describe(trainer)}{weights}", flush=True)
        self._told = True

    def on_train_start(self, trainer: Trainer, module: LightningModule) -> None:
        self._train_start_s = time.perf_counter()
        self._steps_before = trainer.global_step

    def on_train_batch_end(
        self, trainer: Trainer, module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self._num_samples += count_samples(batch)

    def on_train_end(self, trainer: Trainer, module: LightningModule) -> None:
        self._train_s = time.perf_counter() - self._train_start_s

    def teardown(self, trainer: Trainer, module: LightningModule, stage: str) -> None:
        """Print what the verb did; where a test follows a fit, the test ends the report."""
        if not trainer.is_global_zero:
            return
        if stage == "fit":
            print(f"end   {why_ended(trainer, self._steps_before)}")
            speed = self._num_samples * trainer.world_size / max(self._train_s, 1e-9)
            print(
                f"fit   {time.perf_counter() - self._start_s:.1f} s, {count(trainer.current_epoch, 'epoch')}, "
                f"{count(trainer.global_step, 'step')}, {speed:,.0f} samples/s"
            )
            if self.run.best_score is not None:
                print(f"best  {self.run.monitor} {self.run.best_score:.4f}")
        if stage in ("validate", "test"):
            print(f"{'val' if stage == 'validate' else 'test':<5} {in_words(metrics_of(trainer))}")
        if stage == "fit" and self.run.config.get("test_after_fit"):
            return
        print(f"run   {shorten(self.run.folder)}")
        if following := next_command(self.run, trainer, module):
            print(f"next  {following}")


class Progress(TQDMProgressBar, RunCallback):
    """A line per epoch; on a terminal Lightning's bar below it, with the loss, the validation metrics and the speed.

    Args:
        refresh_rate: Batches between two updates of the bar; each costs about 0.3 ms.
        every_s: Seconds between two lines of an epoch that takes long, where there is no terminal.
    """

    def __init__(self, refresh_rate: int = 20, every_s: float = 60.0) -> None:
        super().__init__(refresh_rate=refresh_rate)
        self.every_s = every_s
        self._said_s = time.monotonic()
        self._bar = sys.stdout.isatty()
        self._loss: float | None = None
        self._trained = False

    def setup(self, trainer: Trainer, module: LightningModule, stage: str) -> None:
        """Draw on a terminal only."""
        super().setup(trainer, module, stage)
        if not self._bar:
            self.disable()

    def init_train_tqdm(self) -> Any:
        """A bar that is gone when its stage is done, like the two below."""
        return self._passing(super().init_train_tqdm())

    def init_test_tqdm(self) -> Any:
        return self._passing(super().init_test_tqdm())

    def init_predict_tqdm(self) -> Any:
        return self._passing(super().init_predict_tqdm())

    @staticmethod
    def _passing(bar: Any) -> Any:
        bar.leave = False
        return bar

    def on_train_batch_end(
        self, trainer: Trainer, module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Read the loss when the bar shows it and not more often: on a GPU reading waits for the device."""
        if not self.is_enabled:
            if time.monotonic() - self._said_s > self.every_s and trainer.is_global_zero:
                self._said_s = time.monotonic()
                self._read(trainer, outputs)
                loss = "" if self._loss is None else f"  loss {self._loss:.4f}"
                print(f"step {trainer.global_step:,}{loss}", flush=True)
            return
        if (batch_idx + 1) % self.refresh_rate == 0 or trainer.is_last_batch:
            self._read(trainer, outputs)
        super().on_train_batch_end(trainer, module, outputs, batch, batch_idx)

    def _read(self, trainer: Trainer, outputs: Any) -> None:
        # Lightning divides it for the accumulation of gradients. A module that optimizes by itself may give none.
        if isinstance(outputs, dict) and "loss" in outputs:
            self._loss = float(outputs["loss"]) * trainer.accumulate_grad_batches

    def get_metrics(self, trainer: Trainer, module: LightningModule) -> dict[str, Any]:
        """What stands behind the bar."""
        loss = {} if self._loss is None else {"loss": self._loss}
        val = {name: float(value) for name, value in trainer.callback_metrics.items() if stage_of(name) == "val"}
        return {name: f"{value:.4f}" for name, value in (loss | brief(val)).items()}

    def on_train_epoch_start(self, trainer: Trainer, *rest: Any) -> None:
        """Report the epoch before: only now are its numbers complete."""
        self._report(trainer)
        self._trained = True
        super().on_train_epoch_start(trainer, *rest)
        self.train_progress_bar.set_description(f"Epoch {trainer.current_epoch + 1}{self._of(trainer)}")

    def on_train_end(self, trainer: Trainer, *rest: Any) -> None:
        """Report the last epoch."""
        super().on_train_end(trainer, *rest)
        self._report(trainer)

    def _report(self, trainer: Trainer) -> None:
        if not trainer.is_global_zero or not (self._trained or trainer.callback_metrics):
            return
        values = in_words({name: float(value) for name, value in sorted(trainer.callback_metrics.items())})
        said = f"epoch {trainer.current_epoch}{self._of(trainer)}  step {trainer.global_step}  {values}"
        self._said_s = time.monotonic()
        if self._bar:
            self.train_progress_bar.write(said)  # above the bar
        else:
            print(said, flush=True)

    @staticmethod
    def _of(trainer: Trainer) -> str:
        return f"/{trainer.max_epochs}" if (trainer.max_epochs or -1) > 0 else ""


def describe(trainer: Trainer) -> str:
    """The device in words: "2 x cuda (NVIDIA H200)", "cpu (2 threads; no CUDA or MPS device is here)"."""
    device = trainer.strategy.root_device
    times = f"{trainer.world_size} x " if trainer.world_size > 1 else ""
    if device.type == "cuda":
        here, used = torch.cuda.device_count(), trainer.world_size // trainer.num_nodes
        rest = f"; {used} of the {here} that are here" if here > used else ""
        return f"{times}cuda ({torch.cuda.get_device_name(device)}{rest})"
    if device.type != "cpu":
        return f"{times}{device.type}"
    better = [name for name, there in (("cuda", torch.cuda.is_available()), ("mps", torch.mps.is_available())) if there]
    threads = torch.get_num_threads()
    why = f"chosen, though {better[0]} is here" if better else "no CUDA or MPS device is here"
    return f"{times}cpu ({threads} thread{'s' * (threads > 1)}; {why})"


def brief(values: dict[str, float], most: int = 8) -> dict[str, float]:
    """Without the values of single classes or data sets, `val/f1/3`, where these would be many."""
    return values if len(values) <= most else {name: v for name, v in values.items() if name.count("/") < 2}


def in_words(values: dict[str, float]) -> str:
    """In words: "val/acc 0.9812  val/loss 0.0639"."""
    return "  ".join(f"{name} {value:.4f}" for name, value in brief(values).items())


def count(number: int, what: str) -> str:
    """In words: "1 epoch", "1,080 steps"."""
    return f"{number:,} {what}{'s' * (number != 1)}"
