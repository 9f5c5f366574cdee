"""Keep what Lightning leaves out of a checkpoint, so that a resumed run ends with the same bits as one never stopped.

Options given with `--ckpt_path`: numbers of the optimizer take effect where no schedule sets them. A schedule computes
each learning rate from the one before it, so that another rate, schedule or optimizer has no meaning halfway through.
Such a change is rejected by name; it needs a new run, which starts from the weights.
"""

import functools
import sys
from collections.abc import Callable
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer

from src.engine.checkpoint.build import check_fit
from src.engine.checkpoint.plain import (
    changed_states,
    common_states,
    metric_states,
    pack_checkpoint,
    set_metric_states,
    unpack,
)
from src.engine.data.seeding import random_state, set_random_state
from src.engine.errors import UserError
from src.engine.lightning_fixes.logs import running_logs, set_running_logs
from src.engine.lightning_fixes.loops import align_reloads, step_plateau_of_a_batch, take_up_progress
from src.engine.lightning_fixes.trainer import double_before_weights
from src.engine.run.run import RunCallback

# What torch's schedules set besides the learning rate, by the key that they add to a group.
CYCLED = {"max_momentum": ("momentum", "betas")}


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
        self._metrics: dict[str, dict[str, Any]] = {}

    def setup(self, trainer: Trainer, module: LightningModule, stage: str) -> None:
        self._world_size = trainer.world_size
        if getattr(module.on_save_checkpoint, "func", None) is not _save:  # the test after a fit sets up again
            save, load = module.on_save_checkpoint, module.on_load_checkpoint
            module.on_save_checkpoint = functools.partial(_save, save)  # type: ignore[method-assign]
            module.on_load_checkpoint = functools.partial(_load, module, load)  # type: ignore[method-assign]
        # An option, which Lightning takes for a state.
        self._patience = {each.state_key: each.patience for each in trainer.early_stopping_callbacks}

    def state_dict(self) -> dict[str, Any]:
        return {"states": gather(random_state(), self._world_size)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._states = state["states"]

    def on_fit_start(self, trainer: Trainer, module: LightningModule) -> None:
        """Note what the options made; right after this hook Lightning restores the states of the optimizers."""
        self._made = optimization(trainer, module)
        before = self._loaded.get("optimization")  # nothing in what LearningRateFinder saves and loads before this
        if before and self._loaded["config"] == self.run.config:
            # Callbacks may have changed the groups or the rate before anybody could look at them.
            self._made = before
        elif before:
            refuse_changes(before["fixed"], self._made["fixed"])
        self._metrics = metric_states(module)

    def on_sanity_check_end(self, trainer: Trainer, module: LightningModule) -> None:
        """Clear what metrics keep of a validation that was none: a best value, a history."""
        set_metric_states(module, self._metrics)
        getattr(module, "further_metrics", {}).clear()

    def on_save_checkpoint(self, trainer: Trainer, module: LightningModule, checkpoint: dict[str, Any]) -> None:
        checkpoint["metrics"] = {name: value.cpu() for name, value in trainer.callback_metrics.items()}
        checkpoint["stopped"] = trainer.should_stop
        checkpoint["optimization"] = self._made
        running = {"logs": running_logs(trainer), "metrics": changed_states(self._metrics, metric_states(module))}
        checkpoint["running"] = gather(running, trainer.world_size)
        checkpoint["frozen"] = [name for name, value in module.named_parameters() if not value.requires_grad]
        accumulating = (trainer.fit_loop.batch_idx + 1) % trainer.accumulate_grad_batches != 0
        if accumulating and not trainer.is_last_batch and trainer.world_size == 1:
            gradients = {name: value.grad for name, value in module.named_parameters() if value.grad is not None}
            checkpoint["gradients"] = gradients

    def on_load_checkpoint(self, trainer: Trainer, module: LightningModule, checkpoint: dict[str, Any]) -> None:
        self._loaded = checkpoint
        if trainer.state.fn != "fit":
            take_up_progress(trainer, checkpoint["loops"]["fit_loop"])
        # What a hook of an earlier epoch thawed; before DDP looks for what has gradients.
        self._set_frozen(module, checkpoint, False)

    def _set_frozen(self, module: LightningModule, checkpoint: dict[str, Any], frozen: bool) -> None:
        """Thaw or freeze what the checkpoint has so, unless the model's options were changed."""
        if checkpoint.get("config", {}).get("model") == self.run.config.get("model"):
            for name, parameter in module.named_parameters():
                if (name in checkpoint["frozen"]) == frozen:
                    parameter.requires_grad_(not frozen)

    def on_train_start(self, trainer: Trainer, module: LightningModule) -> None:
        loaded, self._loaded = self._loaded, {}
        if loaded:
            align_reloads(trainer)
            self._set_options(trainer, loaded)
            trainer.callback_metrics.update(loaded["metrics"])
            self._set_sums(trainer, module, loaded["running"])
            self._set_frozen(module, loaded, True)
            for name, parameter in module.named_parameters():
                if name in loaded.get("gradients", {}):
                    parameter.grad = loaded["gradients"][name].to(parameter.device)
            # Whoever changes an option of a run that stopped early wants it to train further.
            trainer.should_stop |= loaded["stopped"] and loaded["config"] == self.run.config
        self._refuse_to_prolong(trainer)
        step_plateau_of_a_batch(trainer)
        # Not before: setting up draws numbers, too. A process that was not there keeps the state its seed gave it.
        if trainer.global_rank < len(self._states):
            set_random_state(self._states[trainer.global_rank])
        self._states = []

    def _set_options(self, trainer: Trainer, loaded: dict[str, Any]) -> None:
        before = (loaded["optimization"] or self._made)["numbers"]
        changed = apply_numbers(trainer, before, self._made["numbers"])
        for each in trainer.early_stopping_callbacks:
            each.patience, saved = self._patience[each.state_key], each.patience
            if each.patience != saved:
                changed.append(f"patience {saved} to {each.patience}")
        if changed and trainer.is_global_zero:
            print(f"changed  {'; '.join(changed)}", flush=True)

    def _set_sums(self, trainer: Trainer, module: LightningModule, shares: list[dict[str, Any]]) -> None:
        """Restore this rank's sums; if the checkpoint had other ranks, spread theirs over the present ones."""
        rank, world_size = trainer.global_rank, trainer.world_size
        set_running_logs(trainer, [dict(share["logs"]) for share in shares[rank::world_size]])
        metrics = [share["metrics"] for share in shares]
        if len(shares) == world_size:
            set_metric_states(module, metrics[rank])
            return
        common = common_states(module, metrics)
        set_metric_states(module, common)
        if rank == 0 and any(each.keys() - common.keys() for each in metrics):
            print(
                f"warning: the checkpoint is of {len(shares)} processes, this run has {world_size}: the metrics that "
                "the module keeps in training begin anew in this epoch.",
                file=sys.stderr,
            )

    @staticmethod
    def _refuse_to_prolong(trainer: Trainer) -> None:
        """Refuse a run beyond the end of a schedule, which has no values there."""
        for config in trainer.lr_scheduler_configs:
            length = trainer.estimated_stepping_batches if config.interval == "step" else (trainer.max_epochs or 0)
            own = getattr(trainer.lightning_module, "schedule_length", None)
            total = getattr(config.scheduler, "total_steps", None) or own
            if total and total < length:
                raise UserError(
                    f"The learning-rate schedule of this run ends at {config.interval} {total}, with these options the "
                    f"run would go to {length:.0f}. Leave --trainer.max_epochs and --trainer.max_steps as they were, "
                    "or start a new run from its weights (--transfer.weights)."
                )


def _save(hook: Callable[[dict[str, Any]], None], checkpoint: dict[str, Any]) -> None:
    """Pack a checkpoint after the module's hook, the last that adds to it."""
    hook(checkpoint)
    pack_checkpoint(checkpoint)


def _load(module: LightningModule, hook: Callable[[dict[str, Any]], None], checkpoint: dict[str, Any]) -> None:
    """Unpack a checkpoint before the module's hook, the first that sees it; reject weights that do not fit."""
    checkpoint.update(unpack(checkpoint))
    if "state_dict" in checkpoint and module.strict_loading:  # FSDP takes it out when it has loaded it
        check_fit(checkpoint["state_dict"], module)
    double_before_weights(module)
    hook(checkpoint)


def gather(value: Any, world_size: int) -> list[Any]:
    """Collect the values of all ranks; all call it together."""
    values = [value] * world_size
    if world_size > 1:
        torch.distributed.all_gather_object(values, value)
    return values


def optimization(trainer: Trainer, module: LightningModule) -> dict[str, Any]:
    """Describe the optimizers and schedules as the options made them; call it before their states are restored.

    Returns:
        `fixed`, a value by name of all that cannot change, and `numbers`, the options of each optimizer's groups.
    """
    optimizers, configs = trainer.optimizers, trainer.lr_scheduler_configs
    fixed = {
        "optimizers": ", ".join(type(each).__name__ for each in optimizers),
        "schedulers": ", ".join(type(config.scheduler).__name__ for config in configs) or "none",
        "groups": plain(getattr(module, "groups", None)),
        "number of groups": [len(each.param_groups) for each in optimizers],
    }
    own = getattr(module, "scheduler", None)  # of a LitModule: its arguments say more than its state
    for number, config in enumerate(configs):
        given = plain(own.keywords if isinstance(own, functools.partial) else config.scheduler.state_dict())
        start = f"scheduler {number + 1}" if number else "scheduler"
        fixed |= {f"{start}.{name}": value for name, value in given.items()} | {f"{start}.interval": config.interval}
    numbers = [
        [{name: plain(value) for name, value in group.items() if name != "params"} for group in each.param_groups]
        for each in optimizers
    ]
    return {"fixed": fixed, "numbers": numbers}


def plain(value: Any) -> Any:
    """Describe a value by what a checkpoint can hold and what can be compared: numbers, texts, lists and dicts."""
    match value:
        case functools.partial():
            return {"class": plain(value.func)} | plain(value.keywords)
        case dict():
            return {str(name): plain(each) for name, each in value.items()}
        case list() | tuple():
            return [plain(each) for each in value]
        case torch.Tensor() if value.numel() == 1:
            return value.item()
        case bool() | int() | float() | str() | None:
            return value
    return getattr(value, "__name__", type(value).__name__)


def refuse_changes(before: dict[str, Any], now: dict[str, Any]) -> None:
    """Refuse other optimizers, schedules or groups than those of the run that wrote the checkpoint."""
    for name in before | now:
        if before.get(name) != now.get(name):
            reject(name, before.get(name), now.get(name))


def apply_numbers(trainer: Trainer, before: list[Any], now: list[Any]) -> list[str]:
    """Let changed numbers of the optimizers take effect; refuse other options, and those that a schedule sets.

    Args:
        trainer: After it restored the checkpoint.
        before: The options of each optimizer's groups in the run that wrote the checkpoint.
        now: Those in this run.

    Returns:
        A text for each change: "optimizer.lr 0.01 to 0.04".
    """
    scheduled = [config.scheduler.optimizer for config in trainer.lr_scheduler_configs]
    changed: dict[str, None] = {}
    for optimizer, old, new in zip(trainer.optimizers, before, now, strict=True):
        # A callback that thaws a part adds groups in the course of a run.
        for group, was, given in zip(optimizer.param_groups, old, new, strict=False):
            by_schedule = {"lr", "initial_lr"} if optimizer in scheduled else set()
            by_schedule |= {name for key, names in CYCLED.items() if key in group for name in names}
            for name in [name for name in given if name in was and was[name] != given[name]]:
                values = given[name] if isinstance(given[name], list) else [given[name]]
                if name in by_schedule or any(type(value) not in (int, float) for value in values):
                    reject(f"optimizer.{name}", was[name], given[name])
                if isinstance(group[name], torch.Tensor):
                    group[name].fill_(given[name])
                else:
                    group[name] = tuple(values) if isinstance(group[name], tuple) else given[name]
                changed[f"optimizer.{name} {was[name]} to {given[name]}"] = None
    return list(changed)


def reject(name: str, before: Any, now: Any) -> None:
    """Say that a change is impossible, and what to do."""
    raise UserError(
        f"{name} cannot change from {before} to {now} in a resumed run. Leave the option out, or start a new run from "
        "the weights: --transfer.weights with the path of the checkpoint, in place of --ckpt_path."
    )
