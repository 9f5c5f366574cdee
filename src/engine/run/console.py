"""Print a run: a line at its start, one per epoch, a bar on a terminal, a few lines at its end."""

import sys
import time
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Timer, TQDMProgressBar
from lightning.pytorch.callbacks.progress.tqdm_progress import Tqdm
from lightning.pytorch.utilities.model_helpers import is_overridden

from src.engine.data.batches import count_samples
from src.engine.paths import pasted, shorten
from src.engine.run.run import Run, RunCallback, metrics_of, stage_of


class Console(RunCallback):
    """Prints what is trained and on what device; a line per epoch; at the end the result and what to type next.

    On a terminal there is a bar as well.

    Args:
        refresh_rate: Batches between two updates of the bar; each costs about 0.3 ms.
        every_s: Seconds between two lines of a long epoch, where there is no terminal.
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
            untrained = "" if self.run.verb == "fit" else "; untrained: no --ckpt_path"
            weights = f"; weights of {shorten(self.run.source)}" if self.run.source else untrained
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
            self._print(trainer, f"epoch {trainer.current_epoch}{_of(trainer)}  step {trainer.global_step}  {values}")

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
            speed = self._num_samples * trainer.world_size / max(self._train_s, 1e-9)
            seconds, epochs, steps = time.perf_counter() - self._start_s, trainer.current_epoch, trainer.global_step
            print(f"end   {why_ended(trainer, self.run.first_step)}")
            print(
                f"fit   {seconds:.1f} s, {epochs:,} epoch{'s' * (epochs != 1)}, "
                f"{steps:,} step{'s' * (steps != 1)}, {speed:,.0f} samples/s"
            )
            if self.run.best_score is not None:
                print(f"best  {self.run.monitor} {self.run.best_score:.4f}")
        elif stage in ("validate", "test"):
            print(f"{'val' if stage == 'validate' else 'test':<5} {in_words(metrics_of(trainer))}")
        if stage != "fit" or not self.run.config.get("test_after_fit"):
            print(f"run   {shorten(self.run.folder)}")
            if following := next_command(self.run, trainer):
                print(f"next  {following}")


class Bar(TQDMProgressBar):
    """Lightning's bar with the loss and the metrics of the last validation; its epochs count from 1."""

    _outputs: Any = None

    def on_train_epoch_start(self, trainer: Trainer, *rest: Any) -> None:
        super().on_train_epoch_start(trainer, *rest)
        self.train_progress_bar.set_description(f"Epoch {trainer.current_epoch + 1}{_of(trainer)}")

    def on_train_batch_end(self, trainer: Trainer, module: LightningModule, outputs: Any, *rest: Any) -> None:
        self._outputs = outputs
        super().on_train_batch_end(trainer, module, outputs, *rest)

    def get_metrics(self, trainer: Trainer, module: LightningModule) -> dict[str, Any]:
        val = {name: float(value) for name, value in trainer.callback_metrics.items() if stage_of(name) == "val"}
        return {name: f"{value:.4f}" for name, value in (loss_of(trainer, self._outputs) | brief(val)).items()}


def _of(trainer: Trainer) -> str:
    return f"/{trainer.max_epochs}" if (trainer.max_epochs or -1) > 0 else ""


def loss_of(trainer: Trainer, outputs: Any) -> dict[str, float]:
    """Return the loss of a step, which Lightning divides for accumulated gradients; nothing of a module without one."""
    return {"loss": float(outputs["loss"]) * trainer.accumulate_grad_batches} if outputs and "loss" in outputs else {}


def describe(trainer: Trainer) -> str:
    """Return the device in words: "2 x cuda (NVIDIA H200)", "cpu"."""
    device, name = trainer.strategy.root_device, trainer.strategy.root_device.type
    if name == "cuda":
        name = f"cuda ({torch.cuda.get_device_name(device)})"
    elif name == "cpu" and torch.accelerator.is_available():
        name = "cpu (a GPU is here, too)"
    return f"{trainer.world_size} x {name}" if trainer.world_size > 1 else name


def brief(values: dict[str, float], most: int = 8) -> dict[str, float]:
    """Leave out the values of single classes or data sets, `val/f1/3`, where there are many."""
    return values if len(values) <= most else {name: v for name, v in values.items() if name.count("/") < 2}


def in_words(values: dict[str, float]) -> str:
    """Return metrics in words: "val/acc 0.9812  val/loss 0.0639"."""
    return "  ".join(f"{name} {value:.4f}" for name, value in brief(values).items())


def why_ended(trainer: Trainer, first_step: int | None) -> str:
    """Return why a fit ended without an error; `first_step` counts the steps that were done before it."""
    for stopper in trainer.early_stopping_callbacks:
        if stopper.stopping_reason_message and (stopper.stopped_epoch or trainer.should_stop):
            message = stopper.stopping_reason_message.removesuffix(" Signaling Trainer to stop.").rstrip(".")
            return f"early stopping in epoch {stopper.stopped_epoch + 1}: {message}"
    timers = [each for each in trainer.callbacks if isinstance(each, Timer)]  # type: ignore[attr-defined]
    why = "trainer.should_stop was set by a callback or the module"
    if trainer.limit_train_batches == 0 or trainer.num_training_batches == 0:
        why = "there is no training batch"
    elif 0 <= trainer.max_steps <= trainer.global_step:
        why = f"max_steps={trainer.max_steps} reached"
    elif 0 <= (trainer.max_epochs or -1) <= trainer.current_epoch:
        why = f"max_epochs={trainer.max_epochs} reached"
    elif any((timer.time_remaining() or 1) <= 0 for timer in timers):
        why = "max_time reached"
    return f"nothing left to do: {why}" if first_step in (None, trainer.global_step) else why


def next_command(run: Run, trainer: Trainer) -> str:
    """Return what to type after a fit: a verb that has data; nothing without one, or without a checkpoint."""
    options = (run.config.get("data") or {}).get("init_args") or {}
    # Only the user knows the value of an option such as `predict_path` that is not set.
    unset = [name for name, value in options.items() if name.startswith("predict_") and value is None]
    wanted = "".join(f" --data.{name} {name.rpartition('_')[2].upper()}" for name in unset)
    owners = (trainer.lightning_module, trainer.datamodule)  # type: ignore[attr-defined]
    for verb, more in (("test", ""), ("predict", wanted), ("validate", "")):
        hook = f"{'val' if verb == 'validate' else verb}_dataloader"
        has_data = any(is_overridden(hook, owner) for owner in owners)
        if run.best and has_data and verb != trainer.state.fn:
            return f"python -m src {verb} --ckpt_path {pasted(run.best)}{more}"
    return ""
