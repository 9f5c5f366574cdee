"""The plain values that a checkpoint holds: `torch.load(path, weights_only=True)` reads every one.

What `state_dict()` and `on_save_checkpoint()` of your data modules, modules and callbacks give comes back as it was:
tensors, NumPy arrays and numbers of any dtype but object, numbers, texts, paths, and lists, tuples, dicts, sets and
deques of these. Anything else is rejected before the first step. Metrics come back with all that they hold.
"""

import copy
import io
import warnings
from collections import OrderedDict, deque
from collections.abc import Callable
from pathlib import Path, PurePath
from typing import Any

import numpy as np
import torch
from lightning.pytorch import Callback, LightningDataModule, LightningModule, Trainer
from torch import Tensor, nn
from torchmetrics import Metric, MetricCollection, MetricTracker

from src.engine.errors import UserError

# Types that torch loads without running code.
SIMPLE = (type(None), bool, int, float, str, bytes, list, tuple, dict, OrderedDict, torch.dtype, torch.Size)
KINDS = (Metric, MetricCollection, MetricTracker)
OBJECT = "__object__"
NO_STATE = set(vars(nn.Module()))


def walk(value: Any, change: Callable[[Any, str], Any], at: str = "") -> Any:
    """Rebuild lists, tuples and dicts: change each part (also keys) and then the whole, given its place."""
    if type(value) in (list, tuple):
        value = type(value)(walk(part, change, f"{at}[{index}]") for index, part in enumerate(value))
    elif type(value) in (dict, OrderedDict):
        parts = [(walk(key, change, f"a key of {at}"), walk(value[key], change, f"{at}[{key!r}]")) for key in value]
        value = copy.copy(value)  # with the versions of modules that a state_dict carries
        value.clear()
        value.update(parts)
    return change(value, at)


def pack(value: Any, at: str) -> Any:
    """Return a value in plain form: arrays, paths, sets and deques become tuples that begin with their kind.

    Raises:
        UserError: If loading it would run code; says where it stands.
    """
    return walk(value, _packed, at)


def _packed(value: Any, at: str) -> Any:
    kind = type(value)
    if kind in SIMPLE or isinstance(value, Tensor):
        return value
    if (kind in (np.ndarray, np.memmap) or isinstance(value, np.generic)) and not value.dtype.hasobject:
        file = io.BytesIO()
        np.save(file, value, allow_pickle=False)
        name = "__scalar__" if isinstance(value, np.generic) else "__array__"
        return (name, torch.frombuffer(bytearray(file.getvalue()), dtype=torch.uint8))
    if isinstance(value, PurePath):
        return ("__path__", str(value))
    if kind in (set, frozenset):
        return (f"__{kind.__name__}__", pack(list(value), at))
    if kind is deque:
        return ("__deque__", pack(list(value), at), value.maxlen)
    raise UserError(
        f"{at} is more than tensors and plain values: {kind.__module__}.{kind.__qualname__}. A checkpoint holds "
        "tensors, NumPy arrays (not of objects), numbers, texts, paths, and lists, dicts and sets of these. In "
        "state_dict() or on_save_checkpoint(), return its content as such (.tolist(), dict(...), str(...)) and make "
        "the object again when it is loaded."
    )


def unpack(value: Any) -> Any:
    """Return what `pack` was given."""
    return walk(value, _unpacked)


def _unpacked(value: Any, at: str) -> Any:
    match value:
        case (str("__array__" | "__scalar__" as name), Tensor() as data):
            array = np.load(io.BytesIO(data.cpu().numpy().tobytes()), allow_pickle=False)
            return array if name == "__array__" else array[()]
        case (str("__path__"), str(path)):
            return Path(path)
        case (str("__set__" | "__frozenset__" as name), list(parts)):
            return set(parts) if name == "__set__" else frozenset(parts)
        case (str("__deque__"), list(parts), length):
            return deque(parts, length)
    return value


def pack_checkpoint(checkpoint: dict[str, Any]) -> None:
    """Pack a checkpoint in place, without the hyperparameters that it cannot hold (a net): the config has them.

    Raises:
        UserError: If something else in it cannot be held.
    """
    for owner in (LightningModule, LightningDataModule):
        checkpoint.pop(owner.CHECKPOINT_HYPER_PARAMS_TYPE, None)
        if given := checkpoint.get(owner.CHECKPOINT_HYPER_PARAMS_KEY):
            plain = {key: str(value) if isinstance(value, PurePath) else value for key, value in given.items()}
            checkpoint[owner.CHECKPOINT_HYPER_PARAMS_KEY] = {k: v for k, v in plain.items() if is_plain(v)}
    checkpoint.update(pack(checkpoint, "checkpoint"))


def is_plain(value: Any) -> bool:
    """Return whether a checkpoint can hold a value."""
    try:
        pack(value, "")
    except UserError:
        return False
    return True


def refuse_unstorable(trainer: Trainer, module: LightningModule) -> None:
    """Ask data module, module and callbacks for what they put into a checkpoint; all processes call it.

    Raises:
        UserError: If a checkpoint cannot hold it.
    """
    callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]
    checkpoint: dict[str, Any] = {
        "epoch": trainer.current_epoch,
        "global_step": trainer.global_step,
        "state_dict": trainer.strategy.lightning_module_state_dict(),
        "optimizer_states": [trainer.strategy.optimizer_state(each) for each in trainer.optimizers],
        "lr_schedulers": [each.scheduler.state_dict() for each in trainer.lr_scheduler_configs],
        "callbacks": {each.state_key: each.state_dict() for each in callbacks},
    }
    if datamodule := getattr(trainer, "datamodule", None):
        checkpoint[type(datamodule).__qualname__] = datamodule.state_dict()
    for callback in callbacks:
        if not type(callback).on_save_checkpoint.__module__.startswith(("lightning.", "src.engine.")):
            callback.on_save_checkpoint(trainer, module, checkpoint)
    module.on_save_checkpoint(checkpoint)


def metrics_in(module: nn.Module) -> dict[str, nn.Module]:
    """Find each metric in a module by its name; a LitModule's copies for further validation sets, too."""
    found: dict[str, nn.Module] = {name: part for name, part in module.named_modules() if isinstance(part, KINDS)}
    for number, metrics in getattr(module, "further_metrics", {}).items():
        found |= {f"{number}:{name}": part for name, part in metrics.named_modules() if isinstance(part, KINDS)}
    return found


def metric_states(module: nn.Module) -> dict[str, dict[str, Any]]:
    """Copy what each metric in a module holds: counts, and what outlives `reset()` (a best value, a history).

    Returns:
        Plain values by attribute, by metric. An object that has no plain form is represented by its identity.
    """
    for part in metrics_in(module).values():
        if isinstance(part, MetricCollection):
            list(part.values(copy_state=False))  # those of a group take the counts of its first
    states: dict[str, dict[str, Any]] = {}
    for name, part in metrics_in(module).items():
        held = states[name] = {}
        for key, value in (vars(part) | dict(part.named_buffers("", False))).items():
            if key in NO_STATE or isinstance(value, torch.device):
                continue
            try:
                held[key] = _copied(pack(value, key))
            except UserError:
                held[key] = (OBJECT, id(value))
        if isinstance(part, MetricTracker):
            held["n_steps"] = part.n_steps
    return states


def set_metric_states(module: nn.Module, states: dict[str, dict[str, Any]]) -> None:
    """Give metrics what `metric_states` returned, or a part of it."""
    for name, held in states.items():
        number, colon, _ = name.partition(":")
        if colon and int(number) not in getattr(module, "further_metrics", {}):
            module.add_further_metrics(int(number))  # type: ignore[operator]
        part = metrics_in(module).get(name)
        if part is None:
            continue
        held = {key: value for key, value in held.items() if not _is_object(value)}
        if isinstance(part, MetricTracker) and "n_steps" in held:
            steps = held.pop("n_steps")
            while part.n_steps > steps:
                delattr(part, str(part.n_steps))
            while part.n_steps < steps:
                part.increment()
        for key, value in held.items():
            value = unpack(_copied(value, getattr(part, "device", None)))
            if key in dict(part.named_buffers("", False)):
                setattr(part, key, value)
            else:
                vars(part)[key] = value  # a Metric refuses to set some of its attributes


def changed_states(before: dict[str, dict[str, Any]], now: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Choose from metrics' states what changed: an option of a metric may be another one when the run is resumed."""
    changes: dict[str, dict[str, Any]] = {}
    for name, held in now.items():
        old = before.get(name, {})
        changed = {key: value for key, value in held.items() if key not in old or not _equal(value, old[key])}
        for key in [key for key, value in changed.items() if _is_object(value)]:
            del changed[key]
            if old:  # of a copy for a further validation set, objects come from the original
                warnings.warn(
                    f"a checkpoint cannot hold {key} of the metric {name}: in a resumed run it begins anew. Make it "
                    "tensors, arrays, numbers, texts, or lists, sets and dicts of these.",
                    stacklevel=1,
                )
        changes |= {name: changed} if changed else {}
    return changes


def common_states(module: nn.Module, shares: list[dict[str, dict[str, Any]]]) -> dict[str, dict[str, Any]]:
    """Choose from what several ranks held that which any number of them can take: equal on all, and no counts."""
    counts = {name: set(getattr(part, "metric_state", {})) for name, part in metrics_in(module).items()}
    return {
        name: held
        for name, held in shares[0].items()
        if all(_equal(held, share.get(name)) for share in shares) and not counts.get(name, set()) & held.keys()
    }


def _copied(value: Any, device: Any = "cpu") -> Any:
    def copied(part: Any, at: str) -> Any:
        return part.detach().to(device or part.device, copy=True) if isinstance(part, Tensor) else part

    return walk(value, copied)


def _is_object(value: Any) -> bool:
    return type(value) is tuple and value[:1] == (OBJECT,)


def _equal(a: Any, b: Any) -> bool:
    if type(a) is not type(b):
        return False
    if isinstance(a, Tensor):
        return a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(_equal(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(_equal, a, b))
    return bool(a == b)
