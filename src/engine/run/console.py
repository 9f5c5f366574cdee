"""Print a run: a line at its start, one per epoch, a bar on a terminal, a few lines at its end."""

import sys
import time
from typing import Any

import torch
from lightning.pytorch import LightningDataModule, LightningModule, Trainer
from lightning.pytorch.callbacks import Timer, TQDMProgressBar
from lightning.pytorch.callbacks.progress.tqdm_progress import Tqdm

from src.engine.data.batches import count_samples
from src.engine.paths import pasted, shorten
from src.engine.run.run import Run, RunCallback, metrics_of, stage_of


class Console(RunCallback):
    """Prints what is trained and where; a line per epoch; at the end how it went, where it lies, what to type next.

    On a terminal there is a bar as well.

    Args:
        refresh_rate: Batches between two updates of the bar; each costs about 0.3 ms.
        every_s: Seconds between two lines of an epoch that takes long, where there is no terminal.
    """

    def __init__(self, refresh_rate: int = 20, every_s: float = 60.0) -> None:
        self.refresh_rate = refresh_rate
        self.every_s = every_s
        self.epochs = True  # whether each gets a line
        self._begun = False
        self._num_samples = 0
        self._start_s = self._train_start_s = self._train_s = self._printed_s = 0.0

    def setup(self, trainer: Trainer, module: LightningModule, stage: str) -> None:
        """Print the first line, once for a fit and its test."""
        self._start_s = time.perf_counter()
        if trainer.is_global_zero and not self._begun:
            net = getattr(module, "net", module)
            number = sum(parameter.numel() for parameter in module.parameters())
            source = self.run.source
            weights = f"; weights of {source}" if source else "; untrained: no --ckpt_path"
            weights = "" if self.run.verb == "fit" and not source else weights
            print(f"{type(net).__name__}, {number:,} parameters, on {describe(trainer)}{weights}", flush=True)
        self._begun = True

    def on_train_start(self, trainer: Trainer, module: LightningModule) -> None:
        self._train_start_s = self._printed_s = time.perf_counter()

    def on_train_batch_end(
        self, trainer: Trainer, module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Count samples; read the loss only to print it: on a GPU reading waits for the device."""
        self._num_samples += count_samples(batch)
        if time.perf_counter() - self._printed_s > self.every_s and not trainer.progress_bar_callback:
            self._print(trainer, f"step {trainer.global_step:,}  {in_words(loss_of(trainer, outputs))}")

    def on_train_epoch_start(self, trainer: Trainer, module: LightningModule) -> None:
        """Report the epoch before: only now are its numbers complete."""
        if trainer.callback_metrics or trainer.global_step > (self.run.first_step or 0):
            values = in_words({name: float(value) for name, value in sorted(trainer.callback_metrics.items())})
            epoch = f"{trainer.current_epoch}{_of(trainer)}"
            self._print(trainer, f"epoch {epoch}  step {trainer.global_step}  {values}")

    def on_train_end(self, trainer: Trainer, module: LightningModule) -> None:
        self._train_s = time.perf_counter() - self._train_start_s
        self.on_train_epoch_start(trainer, module)  # the last one

    def _print(self, trainer: Trainer, text: str) -> None:
        self._printed_s = time.perf_counter()
        if self.epochs and trainer.is_global_zero:
            Tqdm.write(text)  # above a bar
            sys.stdout.flush()

    def teardown(self, trainer: Trainer, module: LightningModule, stage: str) -> None:
        """Print what the verb did; where a test follows a fit, the test ends the report."""
        if not trainer.is_global_zero:
            return
        if stage == "fit":
            print(f"end   {why_ended(trainer, self.run.first_step)}")
            speed = self._num_samples * trainer.world_size / max(self._train_s, 1e-9)
            epochs, steps = trainer.current_epoch, trainer.global_step
            print(
                f"fit   {time.perf_counter() - self._start_s:.1f} s, {epochs:,} epoch{'s' * (epochs != 1)}, "
                f"{steps:,} step{'s' * (steps != 1)}, {speed:,.0f} samples/s"
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


class Bar(TQDMProgressBar):
    """Lightning's bar with the loss and the metrics of the last validation; its epochs count from 1."""

    def __init__(self, refresh_rate: int) -> None:
        super().__init__(refresh_rate=refresh_rate)
        self._loss: dict[str, float] = {}

    def on_train_epoch_start(self, trainer: Trainer, *rest: Any) -> None:
        super().on_train_epoch_start(trainer, *rest)
        self.train_progress_bar.set_description(f"Epoch {trainer.current_epoch + 1}{_of(trainer)}")

    def on_train_batch_end(
        self, trainer: Trainer, module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if (batch_idx + 1) % self.refresh_rate == 0 or trainer.is_last_batch:
            self._loss = loss_of(trainer, outputs)
        super().on_train_batch_end(trainer, module, outputs, batch, batch_idx)

    def get_metrics(self, trainer: Trainer, module: LightningModule) -> dict[str, Any]:
        val = {name: float(value) for name, value in trainer.callback_metrics.items() if stage_of(name) == "val"}
        return {name: f"{value:.4f}" for name, value in (self._loss | brief(val)).items()}


def _of(trainer: Trainer) -> str:
    return f"/{trainer.max_epochs}" if (trainer.max_epochs or -1) > 0 else ""


def loss_of(trainer: Trainer, outputs: Any) -> dict[str, float]:
    """Return the loss of a step, which Lightning divides for accumulated gradients; nothing of a module without one."""
    return {"loss": float(outputs["loss"]) * trainer.accumulate_grad_batches} if outputs and "loss" in outputs else {}


def describe(trainer: Trainer) -> str:
    """Return the device in words: "2 x cuda (NVIDIA H200)", "cpu (no GPU is here)"."""
    device = trainer.strategy.root_device
    times = f"{trainer.world_size} x " if trainer.world_size > 1 else ""
    if device.type == "cuda":
        return f"{times}cuda ({torch.cuda.get_device_name(device)})"
    why = " (a GPU is here, too)" if torch.accelerator.is_available() else " (no GPU is here)"
    return f"{times}{device.type}{why if device.type == 'cpu' else ''}"


def brief(values: dict[str, float], most: int = 8) -> dict[str, float]:
    """Leave out the values of single classes or data sets, `val/f1/3`, where there are many."""
    return values if len(values) <= most else {name: v for name, v in values.items() if name.count("/") < 2}


def in_words(values: dict[str, float]) -> str:
    """Return metrics in words: "val/acc 0.9812  val/loss 0.0639"."""
    return "  ".join(f"{name} {value:.4f}" for name, value in brief(values).items())


def why_ended(trainer: Trainer, first_step: int | None) -> str:
    """Return why a fit that raised no error ended.

    Args:
        trainer: Just done.
        first_step: Optimizer steps at its start: a resumed run may have been at its end already.
    """
    for stopper in trainer.early_stopping_callbacks:
        if stopper.stopping_reason_message and (stopper.stopped_epoch or trainer.should_stop):
            message = stopper.stopping_reason_message.removesuffix(" Signaling Trainer to stop.").rstrip(".")
            return f"early stopping in epoch {stopper.stopped_epoch + 1}: {message}"
    if trainer.limit_train_batches == 0 or trainer.num_training_batches == 0:
        return "nothing to do: there is no training batch"
    idle = "nothing left to do: " if first_step in (None, trainer.global_step) else ""
    if 0 <= trainer.max_steps <= trainer.global_step:
        return f"{idle}max_steps={trainer.max_steps} reached"
    if 0 <= (trainer.max_epochs or -1) <= trainer.current_epoch:
        return f"{idle}max_epochs={trainer.max_epochs} reached"
    for timer in trainer.callbacks:  # type: ignore[attr-defined]
        if isinstance(timer, Timer) and (timer.time_remaining() or 1) <= 0:
            return f"{idle}max_time reached after {timer.time_elapsed():.0f} s"
    return f"{idle}trainer.should_stop was set by a callback or the module"


def next_command(run: Run, trainer: Trainer, module: LightningModule) -> str:
    """Return what to type after a verb; nothing where there is no checkpoint, or no data for a further verb."""
    best, datamodule = run.best, getattr(trainer, "datamodule", None)
    for verb in ("test", "predict", "validate"):
        if verb != trainer.state.fn and best and _has_data(verb, module, datamodule):
            options = (run.config.get("data") or {}).get("init_args") or {} if verb == "predict" else {}
            # Only the user knows the value of an option such as `predict_path` that is not set.
            unset = [name for name, value in options.items() if name.startswith("predict_") and value is None]
            wanted = "".join(f" --data.{name} {name.rpartition('_')[2].upper()}" for name in unset)
            return f"python -m src {verb} --ckpt_path {pasted(best)}{wanted}"
    return ""


def _has_data(verb: str, module: LightningModule, datamodule: Any) -> bool:
    hook = f"{'val' if verb == 'validate' else verb}_dataloader"
    # Lightning's own say that there is none.
    empty = [getattr(base, hook) for base in (LightningDataModule, LightningModule)]
    return any(getattr(type(each), hook, empty[0]) not in empty for each in (module, datamodule))
