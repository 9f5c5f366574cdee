"""The parser of a verb: `${...}` between values, mistakes in one line, and a help that can be read."""

import inspect
import re
import warnings
from collections.abc import Callable
from typing import Any

import torch
import yaml
from jsonargparse import ArgumentError, Namespace, get_loader, set_dumper, set_loader
from jsonargparse.typing import register_type
from lightning.pytorch.cli import LightningArgumentParser
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from src.engine.config.files import as_yaml
from src.engine.config.messages import explain
from src.engine.errors import UserError

# What the parser writes for a value without an import path.
UNWRITABLE = "Unable to serialize instance "


class Parser(LightningArgumentParser):
    """Parses the options of one verb; the classes that a config names get parsers of this kind, too.

    Resolves `${...}` when all files and options are put together, so that a reference sees the value that won.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        # A mistyped option is a mistake, not the beginning of another.
        fixed = {"allow_abbrev": False, "exit_on_error": False}
        super().__init__(*args, **{"parser_mode": "omegaconf+"} | kwargs | fixed)

    def parse(self, read: Callable[[], Namespace]) -> Namespace:
        """Parse by one of the methods below; a mistake becomes one line that names the nearest right word.

        Args:
            read: Calls the method.

        Raises:
            UserError: If an option is unknown, missing or wrong.
        """
        try:
            return read()
        except ArgumentError as error:
            raise UserError(explain(str(error), list(self.get_defaults().keys()))) from None
        except ValueError as error:
            if not type(error).__module__.startswith("omegaconf."):
                raise
            where = re.search(r"full_key: (.*)", str(error))
            raise UserError(f"{where[1] if where else 'config'}: {str(error).splitlines()[0]}") from None

    def validate(self, namespace: Namespace, *args: Any, **kwargs: Any) -> None:
        """Also reject null for what takes none: jsonargparse passes it on as if it were not given."""
        super().validate(namespace, *args, **kwargs)
        defaults = self.get_defaults(skip_validation=True)
        nulls = Namespace({})  # type: ignore[no-untyped-call]
        for name in defaults.keys():  # noqa: SIM118, the keys of a Namespace have dots
            if name in namespace and namespace[name] is None and defaults[name] is not None:
                nulls[name] = None
        if nulls:
            super().validate(nulls, skip_unset=False, skip_required=True)

    def add_class_arguments(self, theclass: Any, nested_key: str | None = None, **kwargs: Any) -> Any:
        """Let the lengths of a scheduler be null, which stands for the length of the run."""
        if nested_key is None and inspect.isclass(theclass) and issubclass(theclass, LRScheduler):
            given = inspect.signature(theclass).parameters
            for name in {"T_max", "total_iters"} & given.keys():
                default = None if given[name].default is inspect.Parameter.empty else given[name].default
                kwargs["skip"] = {*kwargs.get("skip", ()), name}
                self.add_argument(f"--{name}", type=int | None, default=default)
        return super().add_class_arguments(theclass, nested_key, **kwargs)

    def add_function_arguments(self, function: Any, nested_key: str | None = None, **kwargs: Any) -> Any:  # type: ignore[override]
        """Add the arguments of a function; a maker of optimizers or schedulers gets its first one later."""
        made = getattr(function, "__annotations__", {}).get("return")
        if nested_key is None and inspect.isclass(made) and issubclass(made, Optimizer | LRScheduler):
            path = f"{function.__module__}.{function.__name__}"
            raise UserError(f"{path} is a function, which takes no options here. Name it alone: {path}")
        return super().add_function_arguments(function, nested_key, **kwargs)

    def dump(self, namespace: Namespace, *args: Any, **kwargs: Any) -> str:
        """Leave out what text cannot hold: no file gave it, it is the default of a class, and will be so again."""
        kept = namespace.clone()
        for name, value in vars(namespace).items():
            if not (_is_plain(value) or self._can_write(name, value)):
                del kept[name]
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=f"\\s*{UNWRITABLE}")
            text = str(super().dump(kept, *args, **kwargs))
        if UNWRITABLE not in text:
            return text
        # Where a function may stand as well as a text, the parser looks for the import path of the text.
        return as_yaml(_without_mark(yaml.safe_load(text)))

    def _can_write(self, name: str, value: Any) -> bool:
        try:
            alone = Namespace({name: value})  # type: ignore[no-untyped-call]
            return UNWRITABLE not in super().dump(alone, skip_validation=True)
        except Exception:  # a serializer may stumble over foreign objects in any way
            return False

    def format_help(self, *args: Any) -> str:
        """Leave out the long lists of classes that Python knows: of nets alone there are hundreds."""
        return re.sub(r",\s+known\s+subclasses:((?:[^,)]*,){10}[^)]*)\)", ")", super().format_help(*args))


def _is_plain(value: Any) -> bool:
    """Return whether YAML can write a value; the parser of a class looks at what makes objects."""
    if isinstance(value, list | tuple):
        return all(_is_plain(part) for part in value)
    if isinstance(value, dict):
        return all(_is_plain(part) for part in value.values())
    return isinstance(value, Namespace) or type(value) in (type(None), bool, int, float, str)


def _without_mark(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_mark(part) for key, part in value.items()}
    if isinstance(value, list):
        return [_without_mark(part) for part in value]
    return value.removeprefix(UNWRITABLE) if isinstance(value, str) else value


def _read_text(text: str) -> Any:
    """Read an option or a config as YAML: `[1, 2]` is a list. An anchor or a comment alone stays a text."""
    value = get_loader("yaml")(text)
    return text if value is None and text.strip().lower() not in ("", "null", "~") else value


set_loader("omegaconf+", _read_text, (yaml.YAMLError,))
set_dumper("yaml", as_yaml)


def to_tensor(value: Any) -> Tensor:
    """Make a tensor of a number, or of numbers in lists, as deep as they go."""
    try:
        number = float(value) if isinstance(value, str) else value  # from the command line
        return torch.tensor(number, dtype=torch.get_default_dtype())
    except (ValueError, TypeError, RuntimeError) as error:
        raise ValueError(f"a tensor is written as its numbers, [1.0, 5.0]; got {value!r}") from error


def to_numbers(tensor: Tensor) -> Any:
    """Return the plain value that `to_tensor` makes this tensor of, to the bit.

    Raises:
        ValueError: If it has another dtype, which the numbers would lose.
    """
    if tensor.dtype != torch.get_default_dtype():
        raise ValueError(f"a tensor of {tensor.dtype} cannot be written in YAML")
    return tensor.detach().cpu().numpy().astype(str).astype(float).tolist()  # by way of text: 0.1, not 0.1000000015


# Weights of classes are written as their numbers: `weight: [1.0, 5.0, 16.0]`.
register_type(Tensor, to_numbers, to_tensor, type_check=isinstance)
