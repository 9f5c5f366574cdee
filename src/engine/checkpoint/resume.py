"""Keep what Lightning leaves out of a checkpoint, so that a resumed run ends with the same bits as one never stopped.

Options given with `--ckpt_path`: numbers of the optimizer take effect where no schedule sets them. A schedule computes
each learning rate from the one before it, so that another rate, schedule or optimizer has no meaning halfway through.
Such a change is rejected by name; it needs a new run, which starts from the weights.
"""

import copy
import pickle
import sys
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import GradientAccumulationScheduler
from lightning_utilities.core.apply_func import apply_to_collection
from torch import Tensor, nn
from torchmetrics import Metric, MetricCollection

from src.engine.checkpoint.files import is_plain, pack_checkpoint
from src.engine.data.seeding import hash_seed, random_state, seed_all, set_random_state
from src.engine.errors import UserError
from src.engine.lightning_fixes.logs import running_logs, set_running_logs
from src.engine.lightning_fixes.loops import align_reloads, take_up_progress
from src.engine.processes import gather
from src.engine.run.run import RunCallback

NO_STATE = set(vars(nn.Module()))  # what any module keeps


class Resume(RunCallback):
    """Keeps in each checkpoint the random states, metrics, frozen parameters, and whether early stopping ended the run.

    Random states are those of torch (CPU, each CUDA device, MPS), Python and NumPy, for each process. The running sums
    of an epoch are kept, too: of `self.log(..., on_epoch=True)`, and what metrics of torchmetrics hold as plain values.
    So are plain attributes of the module that changed since training began.
    """

    def __init__(self) -> None:
        self._loaded: dict[str, Any] = {}
        self._made: dict[tuple[int, int, str], Any] = {}
        self._metrics: dict[tuple[str, str], Any] = {}

    def setup(self, trainer: Trainer, module: LightningModule, stage: str) -> None:
        if trainer.precision == "64-true":
            module.double()  # Lightning does so after it has loaded the weights, rounded

    def on_fit_start(self, trainer: Trainer, module: LightningModule) -> None:
        """Note what the options made; right after this hook Lightning restores the states of the optimizers."""
        self._metrics = plain_states(module)
        self._made = optimization(trainer, module)
        before = self._loaded.get("optimization")  # nothing in what LearningRateFinder saves and loads before this
        if before and self._loaded["config"] == self.run.config:
            self._made = before  # callbacks may have changed groups and rates already
        elif before:
            self._change_numbers(trainer, before)

    def _change_numbers(self, trainer: Trainer, was: dict[tuple[int, int, str], Any]) -> None:
        """Put the numbers that changed into the states to be restored; reject any other change."""
        changes = {place: value for place, value in self._made.items() if was.get(place, value) != value}
        saved = self._loaded["optimizer_states"]
        for (k, n, name), value in changes.items():
            values = value if isinstance(value, list | tuple) else [value]
            are_numbers = all(type(each) in (int, float) for each in values)
            if not are_numbers or saved[k]["param_groups"][n][name] != was[k, n, name]:  # a schedule moved it
                changed = changed_options(self._loaded["config"], self.run.config)
                named = [text for text in changed if text.startswith("model")] or changed
                raise UserError(
                    f"A resumed run cannot change its optimizer or schedule: {'; '.join(named)}. Leave the option out, "
                    "or start a new run from the weights: --transfer.weights, in place of --ckpt_path."
                )
            saved[k]["param_groups"][n][name] = value
        texts = [f"optimizer.{place[2]} {was[place]} to {value}" for place, value in changes.items()]
        if texts and trainer.is_global_zero:
            print(f"changed  {'; '.join(dict.fromkeys(texts))}", flush=True)

    def on_sanity_check_end(self, trainer: Trainer, module: LightningModule) -> None:
        """Clear what metrics keep of the sanity check, a best value for example."""
        set_plain_states(module, {place: value for place, value in self._metrics.items() if place[0]})

    def on_save_checkpoint(self, trainer: Trainer, module: LightningModule, checkpoint: dict[str, Any]) -> None:
        checkpoint["metrics"] = {name: value.cpu() for name, value in trainer.callback_metrics.items()}
        checkpoint["stopped"] = trainer.should_stop
        checkpoint["optimization"] = self._made
        mine = {"logs": running_logs(trainer), "metrics": plain_states(module, self._metrics)}
        checkpoint["running"] = gather(mine | {"random": random_state()}, trainer.world_size)
        checkpoint["frozen"] = [name for name, value in module.named_parameters() if not value.requires_grad]
        pack_checkpoint(checkpoint)

    def on_load_checkpoint(self, trainer: Trainer, module: LightningModule, checkpoint: dict[str, Any]) -> None:
        self._loaded = checkpoint
        if trainer.state.fn != "fit":
            take_up_progress(trainer, checkpoint["loops"]["fit_loop"])
        for each in trainer.early_stopping_callbacks:  # an option, which Lightning restores as a state
            checkpoint["callbacks"].get(each.state_key, {})["patience"] = each.patience

    def on_train_start(self, trainer: Trainer, module: LightningModule) -> None:
        refuse_to_prolong(trainer)
        self._metrics = plain_states(module)
        if rank := trainer.global_rank:  # other rows draw other numbers
            torch.manual_seed(hash_seed(torch.initial_seed(), rank))
            seed_all(torch.initial_seed())
        loaded, self._loaded = self._loaded, {}
        if not loaded:
            return
        align_reloads(trainer)
        for each in trainer.callbacks:  # type: ignore[attr-defined]
            if isinstance(each, GradientAccumulationScheduler):  # Lightning calls it only as an epoch begins
                each.on_train_epoch_start(trainer)
        trainer.callback_metrics.update(loaded["metrics"])
        for name, parameter in module.named_parameters():
            parameter.requires_grad_(name not in loaded["frozen"])
        # Another option of these means that a run which stopped early should train further.
        same = all(loaded["config"][part] == self.run.config[part] for part in ("trainer", "model"))
        trainer.should_stop |= loaded["stopped"] and same
        shares, world_size = loaded["running"], trainer.world_size
        set_running_logs(trainer, [share["logs"] for share in shares[rank::world_size]])
        if len(shares) == world_size:
            set_plain_states(module, shares[rank]["metrics"])
        elif rank == 0 and any(share["metrics"] for share in shares):
            text = f"the checkpoint is of {len(shares)} processes, this run of {world_size}: metrics begin anew"
            print(f"warning: {text}", file=sys.stderr)
        # Last, because setting up draws numbers, too. A process that was not there keeps the state of its seed.
        if rank < len(shares):
            set_random_state(shares[rank]["random"])


def optimization(trainer: Trainer, module: LightningModule) -> dict[tuple[int, int, str], Any]:
    """Describe optimizers and schedules as the options made them; call it before their states are restored.

    Returns:
        What each group of parameters has, by optimizer, group and name; and "fixed", a list of what is no number.
    """
    groups = getattr(module, "groups", None)
    fixed = [[groups] if is_plain(groups) else []]
    fixed += [[type(each).__name__, len(each.param_groups)] for each in trainer.optimizers]
    fixed += [[type(c.scheduler).__name__, c.interval, c.scheduler.state_dict()] for c in trainer.lr_scheduler_configs]
    made: dict[tuple[int, int, str], Any] = {(0, 0, "fixed"): fixed}
    for k, optimizer in enumerate(trainer.optimizers):
        for n, group in enumerate(optimizer.param_groups):
            made |= {(k, n, name): value for name, value in group.items() if name != "params"}
    return copy.deepcopy(made)


def changed_options(before: Any, now: Any, name: str = "") -> list[str]:
    """List the options that differ in two configs: "model.optimizer.lr 0.1 to 0.2"."""
    if isinstance(before, dict) and isinstance(now, dict):
        parts = {key: f"{name}.{key}".removeprefix(".").removesuffix(".init_args") for key in before | now}
        return [text for key in parts for text in changed_options(before.get(key), now.get(key), parts[key])]
    return [] if before == now else [f"{name.removesuffix('.class_path')} {before} to {now}"]


def refuse_to_prolong(trainer: Trainer) -> None:
    """Refuse a run beyond the end of a schedule, which has no values there."""
    for config in trainer.lr_scheduler_configs:
        length = trainer.estimated_stepping_batches if config.interval == "step" else (trainer.max_epochs or 0)
        own = getattr(trainer.lightning_module, "schedule_length", None)
        total = getattr(config.scheduler, "total_steps", None) or own
        if total and total < length:
            raise UserError(
                f"The learning-rate schedule ends at {config.interval} {total}, but with these options the run ends at "
                f"{length:.0f}. Leave --trainer.max_epochs and --trainer.max_steps as they were, or start a new run "
                "from its weights (--transfer.weights)."
            )


def plain_states(module: nn.Module, before: dict[tuple[str, str], Any] | None = None) -> dict[tuple[str, str], Any]:
    """Copy the plain values among the attributes of a module and of each metric in it: counts, a best value, a window.

    Args:
        module: Holds the metrics. Of its own attributes those with an underscore are left out: Lightning's.
        before: Its states of before. What is still the same, such as an option of a metric, is left out.

    Returns:
        The values by the name of the metric and that of the attribute.
    """
    for part in module.modules():
        if isinstance(part, MetricCollection):
            list(part.values(copy_state=False))  # those of a group take the counts of its first
    old = {place: _as_bytes(value) for place, value in (before or {}).items()}
    states = {
        (name, key): copy.deepcopy(apply_to_collection(value, Tensor, lambda x: x.detach().cpu()))
        for name, part in module.named_modules()
        if isinstance(part, Metric) or part is module
        for key, value in vars(part).items()
        if key not in NO_STATE and is_plain(value) and not (part is module and key.startswith("_"))
    }
    return {place: value for place, value in states.items() if _as_bytes(value) != old.get(place)}


def _as_bytes(values: Any) -> bytes:
    """Return what differs where plain values do; NaN is equal to NaN. To pickle a tensor takes 30 times as long."""
    if not isinstance(values, Tensor):
        return pickle.dumps(apply_to_collection(values, Tensor, _as_bytes))
    dense = values.layout == torch.strided
    return values.flatten().view(torch.uint8).numpy().tobytes() if dense else pickle.dumps(values)


def set_plain_states(module: nn.Module, states: dict[tuple[str, str], Any]) -> None:
    """Give metrics what `plain_states` returned, or a part of it."""
    metrics: dict[str, Any] = dict(module.named_modules())
    for (name, key), value in states.items():
        if name in metrics:  # a Metric refuses to set some of its attributes
            vars(metrics[name])[key] = copy.deepcopy(
                apply_to_collection(value, Tensor, Tensor.to, metrics[name].device)
            )
    if missing := ", ".join({name for name, _ in states} - metrics.keys()):
        print(f"warning: metrics made during training begin anew: {missing}", file=sys.stderr)
