"""NumPy arrays and paths as the plain values that a checkpoint holds, and back.

What `state_dict()` and `on_save_checkpoint()` of your data modules, modules and callbacks give comes back as it was:
tensors, NumPy arrays and numbers of any dtype but object, numbers, texts, paths, and lists, tuples and dicts of these.
Anything else is refused before the first step. `torch.load(path, weights_only=True)` reads every checkpoint.
"""

import io
from collections import OrderedDict, deque
from pathlib import Path, PurePath
from typing import Any

import numpy as np
import torch
from lightning.pytorch import Callback, LightningDataModule, LightningModule, Trainer
from numpy.lib.format import descr_to_dtype, dtype_to_descr
from torch import Tensor, nn

from src.engine.errors import UserError

# The key of a dict that says what its other entries were.
KIND = "__kind__"
PLAIN = (type(None), bool, int, float, str)
# Arrays of these become tensors that can be read without this file; of others the bytes are kept.
TENSORS = "?bBhilqefdFD"


def pack(value: Any, at: str) -> Any:
    """The value with arrays, NumPy's numbers and texts, paths, and dicts with such keys in plain form.

    Args:
        value: Of any depth; it stays as it is.
        at: Where it stands, for the message.

    Raises:
        UserError: If loading it would run code.
    """
    if type(value) in PLAIN or type(value) in (Tensor, nn.Parameter):
        return value
    if (type(value) in (np.ndarray, np.memmap) or isinstance(value, np.generic)) and not value.dtype.hasobject:
        return _pack_array(value)
    if isinstance(value, PurePath):
        return {KIND: "path", "path": str(value)}
    if type(value) is deque:
        return {KIND: "deque", "values": pack(list(value), at), "maxlen": value.maxlen}
    if type(value) in (list, tuple):
        parts = [pack(part, f"{at}[{index}]") for index, part in enumerate(value)]
        return value if all(a is b for a, b in zip(parts, value, strict=True)) else type(value)(parts)
    if type(value) in (dict, OrderedDict):
        packed = {key: pack(part, f"{at}[{key!r}]") for key, part in value.items()}
        if not all(type(key) in PLAIN for key in value):
            items = [[pack(key, f"the key {key!r} of {at}"), part] for key, part in packed.items()]
            return {KIND: "dict", "items": items}
        return value if all(packed[key] is value[key] for key in value) else type(value)(packed)
    _refuse_unsafe(value, at)
    return value


def _pack_array(value: Any) -> dict[str, Any]:
    array = np.array(value, order="C")
    if array.dtype.char in TENSORS:
        tensor = torch.from_numpy(array.astype(array.dtype.newbyteorder("=")))
    else:  # texts, dates, unsigned numbers, records
        tensor = torch.from_numpy(np.frombuffer(array.tobytes(), np.uint8).copy())
    kind = "array" if isinstance(value, np.ndarray) else "scalar"
    return {KIND: kind, "dtype": dtype_to_descr(array.dtype), "shape": list(array.shape), "values": tensor}


def _refuse_unsafe(value: Any, at: str) -> None:
    """See that torch would load a value of a class that we do not know."""
    try:
        file = io.BytesIO()
        torch.save(value, file)
        file.seek(0)
        torch.load(file, weights_only=True)
    except Exception as error:  # pickling, too, may fail in any way
        kind = f"{type(value).__module__}.{type(value).__qualname__}"
        objects = " of dtype object" if type(value) is np.ndarray else ""
        raise UserError(
            f"{at} is more than tensors and plain values: {kind}{objects}. A checkpoint holds tensors, NumPy arrays, "
            "numbers, texts, paths, and lists and dicts of these. In state_dict() or on_save_checkpoint(), keep its "
            "content as such (.tolist(), dict(...), str(...)) and make the object again when it is loaded."
        ) from error


def unpack(value: Any) -> Any:
    """What `pack` was given."""
    if type(value) in (list, tuple):
        parts = [unpack(part) for part in value]
        return value if all(a is b for a, b in zip(parts, value, strict=True)) else type(value)(parts)
    if type(value) not in (dict, OrderedDict):
        return value
    match value.get(KIND):
        case "path":
            return Path(value["path"])
        case "deque":
            return deque(unpack(value["values"]), value["maxlen"])
        case "dict":
            return {unpack(key): unpack(part) for key, part in value["items"]}
        case "array" | "scalar" as kind:
            dtype, values = descr_to_dtype(value["dtype"]), value["values"].cpu().numpy()
            if dtype.char not in TENSORS:
                values = np.ndarray(value["shape"], dtype, values.tobytes())
            array = values.astype(dtype)
            return array if kind == "array" else array[()]
    unpacked = {key: unpack(part) for key, part in value.items()}
    return value if all(unpacked[key] is value[key] for key in value) else type(value)(unpacked)


def pack_checkpoint(checkpoint: dict[str, Any]) -> None:
    """Pack a checkpoint in place.

    Hyperparameters that it cannot hold (a net) are left out: the config has them.

    Raises:
        UserError: If something else in it cannot be held.
    """
    for owner in (LightningModule, LightningDataModule):
        checkpoint.pop(owner.CHECKPOINT_HYPER_PARAMS_TYPE, None)
        if given := checkpoint.get(owner.CHECKPOINT_HYPER_PARAMS_KEY):
            kept = {key: str(value) if isinstance(value, PurePath) else value for key, value in dict(given).items()}
            checkpoint[owner.CHECKPOINT_HYPER_PARAMS_KEY] = {k: v for k, v in kept.items() if _is_plain(v)}
    for key, value in checkpoint.items():
        checkpoint[key] = pack(value, f"checkpoint[{key!r}]")


def _is_plain(value: Any) -> bool:
    try:
        return pack(value, "") is value
    except UserError:
        return False


def unpack_checkpoint(checkpoint: dict[str, Any]) -> None:
    """Unpack a checkpoint in place."""
    for key, value in checkpoint.items():
        checkpoint[key] = unpack(value)


def refuse_unstorable(trainer: Trainer, module: LightningModule) -> None:
    """Ask data module, module and callbacks for what they put into a checkpoint, before it is needed.

    All processes call it.

    Raises:
        UserError: If a checkpoint cannot hold it.
    """
    checkpoint: dict[str, Any] = {"epoch": trainer.current_epoch, "global_step": trainer.global_step, "loops": {}}
    checkpoint["state_dict"] = trainer.strategy.lightning_module_state_dict()
    checkpoint["optimizer_states"] = [trainer.strategy.optimizer_state(each) for each in trainer.optimizers]
    checkpoint["lr_schedulers"] = [each.scheduler.state_dict() for each in trainer.lr_scheduler_configs]
    every: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]
    others = [each for each in every if not type(each).__module__.startswith(f"{__package__}.")]
    checkpoint["callbacks"] = {each.state_key: each.state_dict() for each in others}
    for callback in others:
        if not type(callback).on_save_checkpoint.__module__.startswith("lightning."):
            callback.on_save_checkpoint(trainer, module, checkpoint)
    module.on_save_checkpoint(checkpoint)
    pack_checkpoint(checkpoint)
