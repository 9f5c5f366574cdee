"""The states of metrics: all that they hold, their counts and what outlives `reset()` (a best value, a history)."""

import copy
import sys
from collections import deque
from inspect import Signature
from typing import Any

import numpy as np
import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn
from torchmetrics import Metric, MetricCollection, MetricTracker

from src.engine.checkpoint.packed import pack, unpack
from src.engine.errors import UserError

KINDS = (Metric, MetricCollection, MetricTracker)


def metrics_in(module: nn.Module) -> dict[str, nn.Module]:
    """Find each metric in a module, collections and wrappers of them included, by its name.

    A wrapper of a user's own is a module without parameters that holds a metric. Of a LitModule the copies for further
    validation sets come along.
    """
    found = {name: part for name, part in module.named_modules() if _is_metric(part)}
    for number, metrics in getattr(module, "further_metrics", {}).items():
        found |= {f"{number}:{name}": part for name, part in metrics.named_modules() if _is_metric(part)}
    return found


def _is_metric(part: nn.Module) -> bool:
    wraps = any(isinstance(child, KINDS) for child in part.children()) and next(part.parameters(), None) is None
    return isinstance(part, KINDS) or (wraps and not isinstance(part, LightningModule))


def _attributes(part: nn.Module) -> dict[str, Any]:
    """Give what a metric holds, without the modules in it and the methods that torchmetrics wraps."""
    outer = vars(nn.Module()).keys()
    held = {key: value for key, value in vars(part).items() if key not in outer}
    held = {key: value for key, value in held.items() if not (callable(value) or isinstance(value, Signature))}
    return held | dict(part.named_buffers("", False))


class Snapshot:
    """Keeps metrics as they are, to put them back later.

    Args:
        module: With metrics in it, or one of them.
    """

    def __init__(self, module: nn.Module) -> None:
        self._parts = metrics_in(module)
        same = {id(each): each for each in module.modules()}  # what refers to a module refers to the same one
        self._held = {
            name: {key: _copied(value, same) for key, value in _attributes(part).items()}
            for name, part in self._parts.items()
        }
        self._children = {name: list(dict(part.named_children())) for name, part in self._parts.items()}

    def put_back(self) -> None:
        """Let the metrics be as they were."""
        for name, part in self._parts.items():
            same = {id(each): each for each in part.modules()}
            for key in _attributes(part).keys() - self._held[name].keys():
                delattr(part, key)
            for key, value in self._held[name].items():
                _set(part, key, _copied(value, same))
            for child in dict(part.named_children()).keys() - set(self._children[name]):
                delattr(part, child)  # a step in the history of a MetricTracker

    def changes(self, module: nn.Module) -> dict[str, dict[str, Any]]:
        """Give what metrics hold now and did not then, as plain values by their names.

        What the config gave them stays out: an option may be another one when the run is resumed.
        """
        changed = {}
        for part in metrics_in(module).values():
            if isinstance(part, MetricCollection):
                list(part.values(copy_state=False))  # those of a group take the counts of its first
        for name, part in metrics_in(module).items():
            before = self._held.get(name, {})
            differing = {
                key: value for key, value in _attributes(part).items() if not _equal(value, before.get(key, self))
            }
            held = {}
            for key, value in differing.items():
                try:
                    held[key] = pack(_moved(value, torch.device("cpu")), key)
                except UserError:
                    if name in self._held:  # of a copy that the run made, objects come from the original
                        _say_that_it_is_lost(name, part, key, value)
            if isinstance(part, MetricTracker):
                held["n_steps"] = part.n_steps
            if held:
                changed[name] = held
        return changed


def set_changes(module: nn.Module, changes: dict[str, dict[str, Any]]) -> None:
    """Put back what `Snapshot.changes` gave.

    Args:
        module: As it was built.
        changes: By the metrics' names, those that hold others first.
    """
    for name, held in changes.items():
        number, colon, _ = name.partition(":")
        if colon and int(number) not in getattr(module, "further_metrics", {}):
            module.add_further_metrics(int(number))  # type: ignore[operator]
        part = metrics_in(module).get(name)
        if part is None:
            continue
        for _ in range(held.get("n_steps", 0) - getattr(part, "n_steps", 0)):
            part.increment()  # type: ignore[operator]
        for key, value in held.items():
            if key != "n_steps" or not isinstance(part, MetricTracker):
                _set(part, key, unpack(value))


def common_changes(module: nn.Module, shares: list[dict[str, dict[str, Any]]]) -> dict[str, dict[str, Any]]:
    """Choose from what several processes held that which any number of them can take up: the same on all, no counts."""
    counts = {name: set(getattr(part, "metric_state", {})) for name, part in metrics_in(module).items()}
    return {
        name: held
        for name, held in shares[0].items()
        if all(_equal(held, share.get(name)) for share in shares) and not counts.get(name, set()) & held.keys()
    }


def _copied(value: Any, memo: dict[int, Any]) -> Any:
    try:
        return copy.deepcopy(value, dict(memo))
    except Exception:  # an open file, a lock: it stays the same
        return value


def _set(part: nn.Module, key: str, value: Any) -> None:
    device = getattr(part, "device", None)
    value = _moved(value, device) if isinstance(device, torch.device) else value
    if key in dict(part.named_buffers("", False)):
        setattr(part, key, value)
    else:
        vars(part)[key] = value  # a Metric refuses to set some of its attributes


def _moved(value: Any, device: torch.device) -> Any:
    if isinstance(value, Tensor):
        return value.detach().to(device)
    if isinstance(value, dict):
        return {key: _moved(each, device) for key, each in value.items()}
    return type(value)(_moved(each, device) for each in value) if type(value) in (list, tuple) else value


def _equal(a: Any, b: Any) -> bool:
    if isinstance(a, Tensor) or isinstance(b, Tensor):
        return type(a) is type(b) and a.dtype == b.dtype and a.device == b.device and torch.equal(a, b)
    if type(a) is not type(b):
        return False
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(_equal(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple | deque):
        return len(a) == len(b) and all(map(_equal, a, b))
    return bool(np.array_equal(a, b)) if isinstance(a, np.ndarray) else a is b or bool(a == b)


_said: set[tuple[str, str]] = set()


def _say_that_it_is_lost(name: str, part: nn.Module, key: str, value: Any) -> None:
    if (name, key) in _said:
        return
    _said.add((name, key))
    print(
        f"warning: {type(part).__name__}.{key} is a {type(value).__name__}, which a checkpoint cannot hold: in a "
        "resumed run it begins anew. Let it be tensors, numbers, strings, or lists and dicts of them.",
        file=sys.stderr,
    )
