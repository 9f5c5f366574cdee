"""Word what a run prints: a bar on a terminal, its metrics, why it ended, what to type next."""

import sys
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Timer, TQDMProgressBar
from lightning.pytorch.callbacks.progress.tqdm_progress import Tqdm
from lightning.pytorch.utilities.model_helpers import is_overridden

from src.engine.paths import pasted
from src.engine.run.run import Run


class Bar(TQDMProgressBar):
    """Lightning's bar with the loss, beside what is logged with `prog_bar=True`."""

    _outputs: Any = None

    def on_train_batch_end(self, trainer: Trainer, module: LightningModule, outputs: Any, *rest: Any) -> None:
        self._outputs = outputs
        super().on_train_batch_end(trainer, module, outputs, *rest)

    def get_metrics(self, trainer: Trainer, module: LightningModule) -> dict[str, Any]:
        metrics: dict[str, Any] = super().get_metrics(trainer, module)
        if self._outputs and "loss" in self._outputs:  # Lightning divides it for accumulated gradients
            metrics["loss"] = f"{float(self._outputs['loss']) * trainer.accumulate_grad_batches:.4f}"
        return metrics


def show(text: str) -> None:
    """Print a line at once, above a bar."""
    Tqdm.write(text)
    sys.stdout.flush()


def in_words(values: dict[str, float]) -> str:
    """Return "val/acc 0.9812  val/loss 0.0639"; of more than 8 metrics not those of single classes, `val/f1/3`."""
    brief = len(values) <= 8
    return "  ".join(f"{name} {value:.4f}" for name, value in values.items() if brief or name.count("/") < 2)


def why_ended(trainer: Trainer, first_step: int | None) -> str:
    """Return why a fit ended without an error; `first_step` counts the steps that were done before it."""
    early = [each.stopping_reason_message for each in trainer.early_stopping_callbacks if trainer.should_stop]
    timers = [each for each in trainer.callbacks if isinstance(each, Timer)]  # type: ignore[attr-defined]
    reasons = {
        f"early stopping in epoch {trainer.current_epoch}: {next(filter(None, early), '')}": any(early),
        "there is no training batch": 0 in (trainer.limit_train_batches, trainer.num_training_batches),
        f"max_steps={trainer.max_steps} reached": 0 <= trainer.max_steps <= trainer.global_step,
        f"max_epochs={trainer.max_epochs} reached": 0 <= (trainer.max_epochs or -1) <= trainer.current_epoch,
        "max_time reached": any((timer.time_remaining() or 1) <= 0 for timer in timers),
        "trainer.should_stop was set by a callback or the module": True,
    }
    why = next(reason for reason, holds in reasons.items() if holds)
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
