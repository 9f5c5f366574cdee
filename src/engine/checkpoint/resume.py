"""What Lightning leaves out of a checkpoint, so that a resumed run ends with the same bits as one never stopped."""

import functools
import sys
from collections.abc import Callable
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer

from src.engine.checkpoint.build import check_fit
from src.engine.checkpoint.plain import Snapshot, common_changes, pack_checkpoint, set_metric_states, unpack
from src.engine.checkpoint.resume_options import apply_changes, optimization
from src.engine.data.seeding import random_state, seed_batch, set_random_state
from src.engine.errors import UserError
from src.engine.lightning_fixes.logs import running_logs, set_running_logs
from src.engine.lightning_fixes.loops import align_reloads, step_plateau_of_a_batch, take_up_progress
from src.engine.lightning_fixes.trainer import double_before_weights
from src.engine.run.run import RunCallback


class Resume(RunCallback):
    """Keeps in each checkpoint metrics, an early stop, half-accumulated gradients and the random generators' states.

    The states are those of torch (CPU, each CUDA device, MPS), Python and NumPy, for each process. What a module sums
    up in an epoch is kept, too: by `self.log(..., on_epoch=True)`, and in metrics of torchmetrics, with what these keep
    beyond an epoch. Gradients amid an accumulation are kept on one process only; with several, resume from `last.ckpt`.
    """

    def __init__(self) -> None:
        self._world_size = 1
        self._states: list[dict[str, Any]] = []
        self._loaded: dict[str, Any] = {}
        self._made: dict[str, Any] = {}
        self._metrics: Snapshot | None = None

    @property
    def state_key(self) -> str:
        """Where a checkpoint keeps the states."""
        return "RandomState"

    def setup(self, trainer: Trainer, module: LightningModule, stage: str) -> None:
        self._world_size = trainer.world_size
        if getattr(module.on_save_checkpoint, "func", None) is not _save:  # the test after a fit sets up again
            module.on_save_checkpoint = functools.partial(_save, module.on_save_checkpoint)  # type: ignore[method-assign]
            module.on_load_checkpoint = functools.partial(_load, module, module.on_load_checkpoint)  # type: ignore[method-assign]
        # An option, which Lightning takes for a state.
        self._patience = {each.state_key: each.patience for each in trainer.early_stopping_callbacks}

    def state_dict(self) -> dict[str, Any]:
        states: list[Any] = [random_state()]
        if self._world_size > 1:
            states *= self._world_size
            torch.distributed.all_gather_object(states, random_state())
        return {"states": states}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._states = state["states"]

    def on_fit_start(self, trainer: Trainer, module: LightningModule) -> None:
        """Note what the options made; right after this hook Lightning restores the states of a checkpoint."""
        self._made = optimization(trainer, module)
        self._metrics = Snapshot(module)

    def on_sanity_check_end(self, trainer: Trainer, module: LightningModule) -> None:
        """Clear what metrics keep of a validation that was none: a best value, a history."""
        if self._metrics:
            self._metrics.put_back()
        getattr(module, "further_metrics", {}).clear()

    def on_save_checkpoint(self, trainer: Trainer, module: LightningModule, checkpoint: dict[str, Any]) -> None:
        checkpoint["metrics"] = {name: value.cpu() for name, value in trainer.callback_metrics.items()}
        checkpoint["stopped"] = trainer.should_stop
        checkpoint["optimization"] = self._made
        metrics = self._metrics.changes() if self._metrics else {}
        checkpoint["running"] = gather({"logs": running_logs(trainer), "metrics": metrics}, trainer)
        checkpoint["frozen"] = [name for name, value in module.named_parameters() if not value.requires_grad]
        if accumulating(trainer) and trainer.world_size == 1:
            gradients = {name: value.grad for name, value in module.named_parameters() if value.grad is not None}
            checkpoint["gradients"] = gradients

    def on_load_checkpoint(self, trainer: Trainer, module: LightningModule, checkpoint: dict[str, Any]) -> None:
        self._loaded = checkpoint
        if trainer.state.fn != "fit":
            take_up_progress(trainer, checkpoint["loops"]["fit_loop"])
        # What a hook of an earlier epoch thawed; before DDP looks for what has gradients.
        for name, parameter in module.named_parameters():
            if self._is_same_model(checkpoint) and name not in checkpoint["frozen"]:
                parameter.requires_grad_(True)

    def _is_same_model(self, checkpoint: dict[str, Any]) -> bool:
        """Whether what is frozen now is for the checkpoint to say, and not for an option that was changed."""
        return bool(checkpoint.get("config", {}).get("model") == self.run.config.get("model"))

    def on_train_start(self, trainer: Trainer, module: LightningModule) -> None:
        loaded, self._loaded = self._loaded, {}
        if loaded:
            align_reloads(trainer)
            self._take_up_options(trainer, loaded)
        self._refuse_to_prolong(trainer)
        trainer.callback_metrics.update(loaded.get("metrics", {}))
        self._take_up(trainer, module, loaded.get("running", []))
        step_plateau_of_a_batch(trainer)
        for name, parameter in module.named_parameters():
            if loaded and self._is_same_model(loaded) and name in loaded["frozen"]:
                parameter.requires_grad_(False)
        gradients = loaded.get("gradients", {})
        for name, parameter in module.named_parameters():
            if name in gradients:
                parameter.grad = gradients[name].to(parameter.device)
        # Whoever changes an option of a run that stopped early wants it to go on.
        if loaded.get("stopped") and loaded.get("config") == self.run.config:
            trainer.should_stop = True
        # Not before: setting up draws numbers, too. A process that was not there keeps the state its seed gave it.
        if trainer.global_rank < len(self._states):
            set_random_state(self._states[trainer.global_rank])
        self._states = []

    def _take_up_options(self, trainer: Trainer, loaded: dict[str, Any]) -> None:
        # Callbacks may have changed the groups or the rate before anybody could look at them.
        if loaded.get("config") == self.run.config:
            self._made = loaded["optimization"] or self._made
        changed = apply_changes(trainer, loaded["optimization"] or self._made, self._made)
        for each in trainer.early_stopping_callbacks:
            each.patience, before = self._patience[each.state_key], each.patience
            if each.patience != before:
                changed.append(f"patience {before} to {each.patience}")
        if changed and trainer.is_global_zero:
            print(f"changed  {'; '.join(changed)}", flush=True)

    def _take_up(self, trainer: Trainer, module: LightningModule, shares: list[dict[str, Any]]) -> None:
        """Each process takes its own sums; of more processes than there are now, each those of some."""
        rank, world_size = trainer.global_rank, trainer.world_size
        set_running_logs(trainer, [dict(share["logs"]) for share in shares[rank::world_size]])
        metrics = [share["metrics"] for share in shares]
        taken = metrics[rank] if len(shares) == world_size else common_changes(module, metrics) if shares else {}
        set_metric_states(module, taken)
        if rank == 0 and any(each.keys() - taken.keys() for each in metrics if len(shares) != world_size):
            print(
                f"warning: the checkpoint is of {len(shares)} processes, this run has {world_size}: the metrics that "
                "the module keeps in training begin anew in this epoch.",
                file=sys.stderr,
            )

    def on_validation_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Make what the step draws a function of (seed, stage, batch)."""
        seed_batch(trainer, batch_idx, dataloader_idx)

    on_test_batch_start = on_predict_batch_start = on_validation_batch_start

    @staticmethod
    def _refuse_to_prolong(trainer: Trainer) -> None:
        """A schedule over a number of steps or epochs has no values beyond them."""
        for config in trainer.lr_scheduler_configs:
            by_step = config.interval == "step"
            now = trainer.estimated_stepping_batches if by_step else (trainer.max_epochs or 0)
            own = getattr(trainer.lightning_module, "schedule_length", None)
            total = getattr(config.scheduler, "total_steps", None) or own
            if total and total < now:
                raise UserError(
                    f"The learning-rate schedule of this run ends at {config.interval} {total}, with these options the "
                    f"run would go to {now:.0f}. Leave --trainer.max_epochs and --trainer.max_steps as they were, or "
                    "begin a new run from its weights (--transfer.weights)."
                )


def _save(hook: Callable[[dict[str, Any]], None], checkpoint: dict[str, Any]) -> None:
    """Pack a checkpoint behind the module's hook, the last that adds to it."""
    hook(checkpoint)
    pack_checkpoint(checkpoint)


def _load(module: LightningModule, hook: Callable[[dict[str, Any]], None], checkpoint: dict[str, Any]) -> None:
    """Unpack a checkpoint before the module's hook, the first that sees it; reject weights that do not fit."""
    checkpoint.update(unpack(checkpoint))
    if "state_dict" in checkpoint and module.strict_loading:  # FSDP takes it out when it has loaded it
        check_fit(checkpoint["state_dict"], module)
    double_before_weights(module)
    hook(checkpoint)


def gather(value: Any, trainer: Trainer) -> list[Any]:
    """The values of all processes."""
    values = [value] * trainer.world_size
    if trainer.world_size > 1:
        torch.distributed.all_gather_object(values, value)
    return values


def accumulating(trainer: Trainer) -> bool:
    """Whether the gradients hold a part of the batches of the next optimizer step."""
    return not trainer.is_last_batch and (trainer.fit_loop.batch_idx + 1) % trainer.accumulate_grad_batches != 0
