"""Builds from a file: the module of a checkpoint, the state of a data module, a net with the weights of others."""

import copy
import inspect
from pathlib import Path
from typing import Any, TypeVar

from lightning.pytorch import LightningDataModule, LightningModule
from torch import Tensor, nn

from src.engine.checkpoint.files import find_checkpoint, read_checkpoint, read_plain
from src.engine.config.compose import find_class, resolved
from src.engine.config.parser import Parser, instantiate
from src.engine.errors import UserError
from src.engine.processes import is_rank_zero

T = TypeVar("T")
# Keys under which trainings elsewhere save the weights: Lightning, many a script, PyTorch's tutorial.
INSIDE = ("state_dict", "model", "model_state_dict")


def build(base: type[T], config: dict[str, Any]) -> T:
    """Make the object that a config describes, as the command line does.

    Args:
        base: Its class, or one above it.
        config: `class_path` and `init_args`, as in YAML.

    Raises:
        UserError: If they do not fit the class.
    """
    parser = Parser(parser_mode="yaml")
    parser.add_subclass_arguments(base, "object", fail_untyped=False)
    parsed = parser.parse(lambda: parser.parse_object({"object": config}))
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
    if inspect.isclass(named := find_class(config["class_path"])) and issubclass(cls, named):
        config = config | {"class_path": f"{cls.__module__}.{cls.__qualname__}"}
    module = build(LightningModule, {**config, "init_args": {**config.get("init_args", {}), **overrides}})
    vars(module)["run_seed"] = checkpoint["config"]["seed_everything"]  # `adopt` gives it to the data
    module.configure_model()
    # The length of a schedule belongs to the run of the checkpoint.
    state = {key: value for key, value in checkpoint.items() if key != "schedule_length"}
    module.on_load_checkpoint(state)
    strict = module.strict_loading if strict is None else strict
    if strict:
        check_fit(state["state_dict"], module)
    module.to(next((value.device for value in state["state_dict"].values()), None))
    module.load_state_dict(state["state_dict"], strict=strict)
    return module


def restore_datamodule(datamodule: LightningDataModule, path: Path | None) -> None:
    """Give a data module what it learned from the data (a mean, a vocabulary) before it sets up the data.

    Lightning does so as well, but after `setup`: too late for data that is scaled there.

    Args:
        datamodule: Just made.
        path: The checkpoint that the run starts from, if any.
    """
    kind = type(datamodule)
    if path is None or kind.load_state_dict is LightningDataModule.load_state_dict:
        return
    checkpoint = read_checkpoint(path)
    if kind.__qualname__ in checkpoint:  # the key is Lightning's
        # A copy: the tensors would be read from the disk when they are used, and the file may be another by then.
        datamodule.load_state_dict(copy.deepcopy(checkpoint[kind.__qualname__]))


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
    """List in words where a file's weights differ from a net's own in name or shape."""
    problems = [f"missing {name}" for name in own if name not in weights]
    problems += [f"unexpected {name}" for name in weights if name not in own]
    problems += [
        f"{name} has shape {tuple(weights[name].shape)}, the config's net {tuple(value.shape)}"
        for name, value in own.items()
        # What a module's `get_extra_state` adds need not be a tensor.
        if isinstance(value, Tensor) and name in weights and weights[name].shape != value.shape
    ]
    return problems


class Transfer:
    """Starts a fit or a test with weights that another training left, and with nothing else of it.

    Args:
        weights: A run's folder (its last checkpoint), a checkpoint, or a file of names and tensors: .pt, .pth, .bin,
            .safetensors.
        prefix: What stands before the net's names in the file, and is taken off: "backbone." What does not begin with
            it is left out. "net." of this template and "module." of DistributedDataParallel go by themselves.
        skip: Parameters that keep their fresh values, by the beginning of their names: [layers.3] for a new head.
    """

    def __init__(
        self, weights: str | Path | None = None, prefix: str | None = None, skip: list[str] | None = None
    ) -> None:
        self.weights = weights
        self.prefix = prefix
        self.skip = skip or []

    def into(self, net: nn.Module) -> None:
        """Load the weights, if any are named.

        Raises:
            UserError: If they are not there, or do not fit.
        """
        if self.weights is None:
            return
        source = find_checkpoint(self.weights, "transfer.weights")
        own, saved = net.state_dict(), read_weights(source)
        # Checkpoints of this template begin with the first, those of DistributedDataParallel with the second.
        starts = [start for start in ("", "net.", "module.") if any(f"{start}{name}" in saved for name in own)]
        prefix = next(iter(starts), "") if self.prefix is None else self.prefix
        found = {name.removeprefix(prefix): value for name, value in saved.items() if name.startswith(prefix)}
        if not found:
            raise UserError(
                f"transfer.prefix: no weight of {source} begins with {prefix}; there are {', '.join(saved)}."
            )
        if unknown := [start for start in self.skip if not any(name.startswith(start) for name in own)]:
            raise UserError(
                f"transfer.skip: no parameter begins with {', '.join(unknown)}; there are {', '.join(own)}."
            )
        taken, wanted = (
            {name: value for name, value in each.items() if not name.startswith(tuple(self.skip))}
            for each in (found, own)
        )
        if problems := mismatches(taken, wanted):
            raise UserError(
                f"The weights of {source} do not fit: {'; '.join(problems)}. Leave some out with --transfer.skip "
                "[name], take a beginning off the file's names with --transfer.prefix, or choose the same net."
            )
        net.load_state_dict(own | taken)
        if is_rank_zero():
            print(f"weights from {source}: {len(taken)} of {len(own)} tensors", flush=True)


def read_weights(path: Path) -> dict[str, Tensor]:
    """Read names and tensors from a file.

    Raises:
        UserError: If it has none.
    """
    held = read_plain(path)
    holder = held if isinstance(held, dict) else {}
    weights = next((holder[key] for key in INSIDE if isinstance(holder.get(key), dict)), holder)
    weights = {name: value for name, value in weights.items() if isinstance(value, Tensor)}
    if not weights:
        names = f"the names {', '.join(map(str, holder))}" if holder else f"a {type(held).__name__}"
        raise UserError(
            f"{path} has no weights: it holds {names}. Wanted are names and tensors, as torch.save(net.state_dict(), "
            f"path) writes them, or these under {' or '.join(INSIDE)}."
        )
    return weights
