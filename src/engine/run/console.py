"""Word what a run prints: a bar on a terminal, its metrics, why it ended, what to type next."""

import sys
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Timer, TQDMProgressBar
from lightning.pytorch.callbacks.progress.tqdm_progress import Tqdm
from lightning.pytorch.utilities.model_helpers import is_overridden

from src.engine.paths import pasted
from src.engine.run.run import Run, metrics_of, stage_of


class Bar(TQDMProgressBar):
    """Lightning's bar with the loss, and the metrics of the last validation."""

    _outputs: Any = None

    def on_train_batch_end(self, trainer: Trainer, module: LightningModule, outputs: Any, *rest: Any) -> None:
        self._outputs = outputs
        super().on_train_batch_end(trainer, module, outputs, *rest)

    def get_metrics(self, trainer: Trainer, module: LightningModule) -> dict[str, Any]:
        values = brief({name: value for name, value in metrics_of(trainer).items() if stage_of(name) == "val"})
        if self._outputs and "loss" in self._outputs:  # Lightning divides it for accumulated gradients
            values = {"loss": float(self._outputs["loss"]) * trainer.accumulate_grad_batches} | values
        return {name: f"{value:.4f}" for name, value in values.items()}


def show(text: str) -> None:
    """Print a line at once, above a bar."""
    Tqdm.write(text)
    sys.stdout.flush()


def brief(values: dict[str, float], most: int = 8) -> dict[str, float]:
    """Leave out the values of single classes or data sets, `val/f1/3`, where there are many."""
    return values if len(values) <= most else {name: v for name, v in values.items() if name.count("/") < 2}


def in_words(values: dict[str, float]) -> str:
    """Return metrics in words: "val/acc 0.9812  val/loss 0.0639"."""
    return "  ".join(f"{name} {value:.4f}" for name, value in brief(values).items())


def why_ended(trainer: Trainer, first_step: int | None) -> str:
    """Return why a fit ended without an error; `first_step` counts the steps that were done before it."""
    early = [each.stopping_reason_message for each in trainer.early_stopping_callbacks if trainer.should_stop]
    timers = [each for each in trainer.callbacks if isinstance(each, Timer)]  # type: ignore[attr-defined]
    why = "trainer.should_stop was set by a callback or the module"
    if any(early):
        return f"early stopping in epoch {trainer.current_epoch}: {next(filter(None, early))}"
    if 0 in (trainer.limit_train_batches, trainer.num_training_batches):
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
    owners = (trainer.lightning_module, trainer.datamodule)  # type: ignore[attr-defined]
    options = (run.config.get("data") or {}).get("init_args") or {}
    # Only the user knows the value of an option such as `predict_path`.
    asked = " --data.predict_path PATH" * (options.get("predict_path", "") is None)
    for verb, name, more in (("test", "test", ""), ("predict", "predict", asked), ("validate", "val", "")):
        has_data = any(is_overridden(f"{name}_dataloader", owner) for owner in owners)
        if run.best and has_data and verb != trainer.state.fn:
            return f"python -m src {verb} --ckpt_path {pasted(run.best)}{more}"
    return ""
