"""Why a training ended, and what can be typed next."""

from typing import Any

from lightning.pytorch import LightningDataModule, LightningModule, Trainer
from lightning.pytorch.callbacks import Timer

from src.engine.paths import pasted
from src.engine.run.run import Run


def why_ended(trainer: Trainer, steps_before: int | None) -> str:
    """In words; `fit` ends for one of these reasons, or with an error.

    Args:
        trainer: Just done.
        steps_before: Optimizer steps at its start: a run that goes on may have been at its end already. None where it
            took no step.
    """
    for stopper in trainer.early_stopping_callbacks:
        if stopper.stopping_reason_message and (stopper.stopped_epoch or trainer.should_stop):
            message = stopper.stopping_reason_message.removesuffix(" Signaling Trainer to stop.").rstrip(".")
            return f"early stopping in epoch {stopper.stopped_epoch + 1}: {message}"
    if trainer.limit_train_batches == 0 or trainer.num_training_batches == 0:
        return "nothing to do: there is no training batch"
    idle = "nothing left to do: " if steps_before in (None, trainer.global_step) else ""
    if 0 <= trainer.max_steps <= trainer.global_step:
        return f"{idle}max_steps={trainer.max_steps} reached"
    if 0 <= (trainer.max_epochs or -1) <= trainer.current_epoch:
        return f"{idle}max_epochs={trainer.max_epochs} reached"
    for timer in trainer.callbacks:  # type: ignore[attr-defined]
        if isinstance(timer, Timer) and (timer.time_remaining() or 1) <= 0:
            return f"{idle}max_time reached after {timer.time_elapsed():.0f} s"
    return f"{idle}trainer.should_stop was set by a callback or the module"


def next_command(run: Run, trainer: Trainer, module: LightningModule) -> str:
    """What to type after a fit or its test; nothing where there is no checkpoint, or no data for a further verb."""
    best, datamodule = run.best, getattr(trainer, "datamodule", None)
    done = ("fit", str(trainer.state.fn.value if trainer.state.fn else ""))
    verbs = [
        verb for verb in ("test", "predict", "validate") if verb not in done and has_data(verb, module, datamodule)
    ]
    if best is None or not verbs:
        return ""
    options = (run.config.get("data") or {}).get("init_args") or {} if verbs[0] == "predict" else {}
    # Of an option such as `predict_path` that is not set nobody but the user knows the value.
    unset = [name for name, value in options.items() if name.startswith("predict_") and value is None]
    wanted = "".join(f" --data.{name} {name.rpartition('_')[2].upper()}" for name in unset)
    return f"python -m src {verbs[0]} --ckpt_path {pasted(best)}{wanted}"


def has_data(verb: str, module: LightningModule, datamodule: Any) -> bool:
    """Whether the data module, or the module, has a loader for a verb."""
    hook = f"{'val' if verb == 'validate' else verb}_dataloader"
    # Those of Lightning itself, which say that there is none.
    empty = [getattr(base, hook) for base in (LightningDataModule, LightningModule)]
    return any(getattr(type(each), hook, empty[0]) not in empty for each in (module, datamodule))
