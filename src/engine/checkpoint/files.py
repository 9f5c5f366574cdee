"""Checkpoints as documents: plain values only, with the run's config inside; how they are read."""

import inspect
import sys
from pathlib import Path
from typing import Any, TypeVar
from zipfile import is_zipfile

import torch
from lightning.pytorch import LightningModule
from torch import Tensor

from src.engine.checkpoint.packed import unpack_checkpoint
from src.engine.config.complaint import Complaint
from src.engine.config.instantiate import instantiate
from src.engine.config.merge import find_class
from src.engine.config.parser import Parser
from src.engine.config.renamed import as_options, follow_renamed
from src.engine.config.suggestions import explain
from src.engine.config.text import resolved
from src.engine.errors import UserError
from src.engine.paths import at_home, pasted
from src.engine.processes import is_rank_zero

T = TypeVar("T")


def find_checkpoint(path: str | Path, option: str = "ckpt_path") -> Path:
    """The checkpoint that `path` names: itself, or the last one of a run's folder or of its `checkpoints`.

    Args:
        path: What the user gave.
        option: By which option, for the message.

    Raises:
        UserError: If there is none.
    """
    if not str(path):
        raise UserError(f"{option} is empty. Name a checkpoint file or a run's folder.")
    if "://" in str(path):
        raise UserError(f"{option}={path} is an address. Download the file, and name it as a path.")
    path = at_home(path)
    if (path / "checkpoints").is_dir():
        path = path / "checkpoints"
    if not (path / "last.ckpt").exists() and (path / "best.ckpt").exists():
        path = path / "best.ckpt"
        if is_rank_zero():
            print(f"{path.parent} has no last.ckpt: taking best.ckpt", file=sys.stderr, flush=True)
    elif (path / "last.ckpt").exists() or path.name == "checkpoints":
        path = path / "last.ckpt"
    if not path.exists():
        raise UserError(f"{option}={path} does not exist. Name a checkpoint file or a run's folder.")
    if path.is_dir():
        raise UserError(f"{option}={path} is a folder without checkpoints. Name a checkpoint file or a run's folder.")
    return path


def read_checkpoint(path: str | Path, map_location: Any = "cpu", weights: bool = True) -> dict[str, Any]:
    """Read a checkpoint without running anything in it.

    Args:
        path: A checkpoint file.
        map_location: Where its tensors go, as for `torch.load`.
        weights: Whether they are needed. Without them tensors are read from the disk when they are used: copy what is
            to stay.

    Returns:
        Tensors, numbers, strings, lists and dicts; NumPy arrays and paths as they were.

    Raises:
        UserError: If the file is not whole, is no checkpoint of this template, or carries any other object; names the
            newest whole one beside it.
    """
    path = Path(path)
    try:
        return _load(path, map_location, weights)
    except UserError as error:
        beside = sorted(path.parent.glob("*.ckpt"), key=lambda file: file.stat().st_mtime, reverse=True)
        for other in (file for file in beside if file != path):
            try:
                step = _load(other, "cpu", weights=False)["global_step"]
            except UserError:
                continue
            raise UserError(f"{error} The newest whole one beside it is {other} (step {step}).") from error
        raise


def _load(path: Path, map_location: Any, weights: bool) -> dict[str, Any]:
    bare = path.suffix == ".safetensors" and path.is_file()
    checkpoint = {} if bare else read_plain(path, map_location, weights)
    if not isinstance(checkpoint, dict) or "config" not in checkpoint:
        raise UserError(
            f"{path} is no checkpoint of this template: it holds no config. Name one that a fit wrote. To begin with "
            f"weights of another training: --config YAML --transfer.weights {pasted(path)} in place of --ckpt_path."
        )
    unpack_checkpoint(checkpoint)
    return checkpoint


def read_plain(path: Path, map_location: Any = "cpu", weights: bool = True) -> Any:
    """What torch saved in a file, whoever did it.

    Args:
        path: The file.
        map_location: As for `torch.load`.
        weights: Whether to read tensors now, not when they are used.

    Raises:
        UserError: If the file is not whole, or holds more than tensors and plain values.
    """
    try:
        lazy = not weights and is_zipfile(path)  # torch's older files are none
        return torch.load(path, map_location=map_location, weights_only=True, mmap=lazy)
    except (FileNotFoundError, PermissionError) as error:
        raise UserError(f"{path} cannot be read: {error.strerror}.") from error
    except Exception as error:  # torch.load may stumble over foreign bytes in any way
        refused = [line.strip() for line in str(error).splitlines() if "GLOBAL" in line or "Unsupported class" in line]
        if refused:
            raise UserError(
                f"{path} is refused: it holds more than tensors and plain values, and loading it could run foreign "
                f"code. {refused[0]}"
            ) from error
        raise UserError(f"{path} ({path.stat().st_size:,} bytes) is no checkpoint, or only a part of one.") from error


def build(base: type[T], config: dict[str, Any]) -> T:
    """Make the object that a config describes, as the command line does.

    Args:
        base: Its class, or one above it.
        config: `class_path` and `init_args`, as in YAML.

    Raises:
        UserError: If they do not fit the class.
    """
    parser = Parser(exit_on_error=False, parser_mode="yaml")
    parser.add_subclass_arguments(base, "object", fail_untyped=False)
    try:
        parsed = parser.parse_object({"object": config})
    except Complaint as complaint:
        raise UserError(explain(complaint, [], [])) from None
    made: T = instantiate(parser, parsed).object
    return made


def load_module(
    cls: type[LightningModule],
    path: str | Path,
    map_location: Any,
    overrides: dict[str, Any],
    strict: bool | None = None,
) -> Any:
    """Build the module of a checkpoint's config, with other arguments where given, and load its weights.

    Args:
        cls: Takes the place of the config's class where it is built on that one.
        path: The checkpoint, or a run's folder.
        map_location: Where the module goes.
        overrides: Arguments that replace the config's.
        strict: Whether each weight must have its place; by default as the module says.

    Returns:
        The module that the config names, any LightningModule.
    """
    checkpoint = read_checkpoint(find_checkpoint(path), map_location)
    config = resolved(checkpoint["config"])["model"]
    (config,) = follow_renamed({"model": config}, as_options(overrides), []).values()
    if inspect.isclass(named := find_class(config["class_path"])) and issubclass(cls, named):
        config = config | {"class_path": f"{cls.__module__}.{cls.__qualname__}"}
    module = build(LightningModule, {**config, "init_args": {**config.get("init_args", {}), **overrides}})
    vars(module)["run_seed"] = checkpoint["config"]["seed_everything"]  # `adopt` gives it to the data
    module.configure_model()
    # What belongs to the training stays there: sums of an epoch, the length of a schedule.
    state = {key: value for key, value in checkpoint.items() if key != "train_means"} | {"lr_schedulers": []}
    module.on_load_checkpoint(state)
    strict = module.strict_loading if strict is None else strict
    if strict:
        check_fit(state["state_dict"], module)
    module.to(next((value.device for value in state["state_dict"].values()), None))
    module.load_state_dict(state["state_dict"], strict=strict)
    return module


def check_fit(weights: dict[str, Tensor], module: LightningModule) -> None:
    """Compare a checkpoint's weights with a module's.

    Raises:
        UserError: If they differ in name or shape; lists how.
    """
    if problems := mismatches(weights, module.state_dict()):
        raise UserError(
            f"The checkpoint's weights do not fit the net of the config: {'; '.join(problems)}. "
            "Leave --config and --model options away to use the checkpoint's own."
        )


def mismatches(weights: dict[str, Tensor], own: dict[str, Tensor]) -> list[str]:
    """In words, where a checkpoint's weights differ from a net's own in name or shape."""
    problems = [f"missing {name}" for name in own if name not in weights]
    problems += [f"unexpected {name}" for name in weights if name not in own]
    problems += [
        f"{name} has shape {tuple(weights[name].shape)}, the config's net {tuple(value.shape)}"
        for name, value in own.items()
        # What a module's `get_extra_state` adds need not be a tensor.
        if isinstance(value, Tensor) and name in weights and weights[name].shape != value.shape
    ]
    return problems
