"""What Lightning leaves out of a checkpoint, so that a resumed run ends with the same bits as one never stopped."""

from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer


class Resume(Callback):
    """Puts into each checkpoint the metrics, an early stop and half-accumulated gradients, and takes them up again.

    What a module logs with `self.log(..., on_epoch=True)` amid an epoch is not covered: LitModule keeps its own means.
    Gradients amid an accumulation are kept on one process only; with several, resume from `last.ckpt`.
    """

    def __init__(self) -> None:
        self._loaded: dict[str, Any] = {}

    def on_save_checkpoint(self, trainer: Trainer, module: LightningModule, checkpoint: dict[str, Any]) -> None:
        checkpoint["metrics"] = {name: value.cpu() for name, value in trainer.callback_metrics.items()}
        checkpoint["stopped"] = trainer.should_stop
        if accumulating(trainer) and trainer.world_size == 1:
            gradients = {name: value.grad for name, value in module.named_parameters() if value.grad is not None}
            checkpoint["gradients"] = gradients

    def on_load_checkpoint(self, trainer: Trainer, module: LightningModule, checkpoint: dict[str, Any]) -> None:
        self._loaded = checkpoint

    def on_train_start(self, trainer: Trainer, module: LightningModule) -> None:
        loaded, self._loaded = self._loaded, {}
        self._refuse_to_prolong(trainer)
        trainer.callback_metrics.update(loaded.get("metrics", {}))
        gradients = loaded.get("gradients", {})
        for name, parameter in module.named_parameters():
            if name in gradients:
                parameter.grad = gradients[name].to(parameter.device)
        # Whoever changes an option of a run that stopped early wants it to go on.
        same = loaded.get("config") == getattr(trainer.checkpoint_callback, "config", None)
        if loaded.get("stopped") and same:
            trainer.should_stop = True

    @staticmethod
    def _refuse_to_prolong(trainer: Trainer) -> None:
        """A schedule over a number of steps has no values beyond them."""
        steps = trainer.estimated_stepping_batches
        for config in trainer.lr_scheduler_configs:
            total = getattr(config.scheduler, "total_steps", None)
            if total and config.interval == "step" and total < steps:
                raise ValueError(
                    f"The learning-rate schedule of this run ends at step {total}, with these options the run would "
                    f"go to {steps:.0f}. Leave --trainer.max_epochs and --trainer.max_steps as they were, or begin a "
                    "new run from its weights (--transfer.weights)."
                )


def accumulating(trainer: Trainer) -> bool:
    """Whether the gradients hold a part of the batches of the next optimizer step."""
    return not trainer.is_last_batch and (trainer.fit_loop.batch_idx + 1) % trainer.accumulate_grad_batches != 0
