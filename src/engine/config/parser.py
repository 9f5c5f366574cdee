"""Parse options: references between values, one-line errors, a short help, tensors; make the objects they name."""

import inspect
import re
import warnings
from argparse import RawDescriptionHelpFormatter
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
import yaml
from jsonargparse import (
    ArgumentError,
    ArgumentParser,
    DefaultHelpFormatter,
    Namespace,
    get_loader,
    set_dumper,
    set_loader,
)
from jsonargparse.typing import register_type
from lightning.pytorch.cli import LightningArgumentParser
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from src.engine.config.compose import LIBRARIES
from src.engine.config.files import UNWRITABLE, as_yaml
from src.engine.config.messages import explain
from src.engine.errors import UserError


class Help(RawDescriptionHelpFormatter, DefaultHelpFormatter):
    """Leaves the lines of a description as they are."""


class Parser(LightningArgumentParser):
    """Parses the options of one verb, and the arguments of each class that a config names.

    Resolves `${...}` after files and options are merged, so that a reference sees the final value.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        # allow_abbrev would take a mistyped option for the beginning of another.
        fixed = {"allow_abbrev": False, "exit_on_error": False, "formatter_class": Help}
        super().__init__(*args, **{"parser_mode": "omegaconf+"} | kwargs | fixed)

    def parse(self, read: Callable[[], Namespace]) -> Namespace:
        """Call a parsing method; an option that is unknown, missing or wrong raises a UserError of one line."""
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
        """Also reject null where None is not allowed; jsonargparse treats it as not given."""
        super().validate(namespace, *args, **kwargs)
        super().validate(namespace, skip_unset=False, skip_required=True)

    def add_class_arguments(self, theclass: Any, nested_key: str | None = None, **kwargs: Any) -> Any:
        """Allow null for the lengths of a scheduler, which means the length of the run."""
        if nested_key is None and inspect.isclass(theclass) and issubclass(theclass, LRScheduler):
            for name, given in inspect.signature(theclass).parameters.items():
                if name in ("T_max", "total_iters"):
                    kwargs["skip"] = {*kwargs.get("skip", ()), name}
                    default = None if given.default is given.empty else given.default
                    self.add_argument(f"--{name}", type=int | None, default=default)
        return super().add_class_arguments(theclass, nested_key, **kwargs)

    def add_function_arguments(  # type: ignore[override]
        self, function: Any, nested_key: str | None = None, **kwargs: Any
    ) -> Any:
        """Reject options for a function that makes an optimizer or scheduler; it is called later."""
        made = getattr(function, "__annotations__", {}).get("return")
        if nested_key is None and inspect.isclass(made) and issubclass(made, Optimizer | LRScheduler):
            path = f"{function.__module__}.{function.__name__}"
            raise UserError(f"{path} is a function, which takes no options here. Name it alone: {path}")
        return super().add_function_arguments(function, nested_key, **kwargs)

    def dump(self, namespace: Namespace, *args: Any, **kwargs: Any) -> str:
        """Write each argument; leave out defaults that text cannot hold, which the class will set again."""
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=f"\\s*{UNWRITABLE}")
            text = str(super().dump(namespace, *args, **kwargs))
        if UNWRITABLE not in text:
            return text
        written = yaml.safe_load(text)
        for name in [name for name, value in written.items() if UNWRITABLE in str(value)]:
            # The parser looks for the import path of a text, too, where a function may stand as well.
            text = as_yaml(namespace[name])
            written[name] = yaml.safe_load(text)
            if UNWRITABLE in text:
                del written[name]
        return as_yaml(written)

    def format_help(self, *args: Any) -> str:
        """Leave out long lists of known classes; there are hundreds of nets."""
        return re.sub(r",\s+known\s+subclasses:((?:[^,)]*,){10}[^)]*)\)", ")", super().format_help(*args))


def _read_text(text: str) -> Any:
    """Read an option or a config as YAML; an anchor or a comment alone, as in `#3`, stays a text."""
    value = get_loader("yaml")(text)
    return text if value is None and text.strip().lower() not in ("", "null", "~") else value


set_loader("omegaconf+", _read_text, (yaml.YAMLError,))
set_dumper("yaml", as_yaml)


def to_tensor(value: Any) -> Tensor:
    """Make a tensor of the default dtype from a number or nested lists of numbers."""
    try:
        number = float(value) if isinstance(value, str) else value  # from the command line
        return torch.tensor(number, dtype=torch.get_default_dtype())
    except (ValueError, TypeError, RuntimeError) as error:
        raise ValueError(f"a tensor is written as its numbers, [1.0, 5.0]; got {value!r}") from error


def to_numbers(tensor: Tensor) -> Any:
    """Return the numbers from which `to_tensor` makes the same bits; a ValueError refuses another dtype."""
    if tensor.dtype != torch.get_default_dtype():
        raise ValueError(f"a tensor of {tensor.dtype} cannot be written in YAML")
    return tensor.detach().cpu().numpy().astype(str).astype(float).tolist()  # through text: 0.1, not 0.1000000015


register_type(Tensor, to_numbers, to_tensor, type_check=isinstance)


def construct(cls: type, *args: Any, **kwargs: Any) -> Any:
    """Make an object; what a library's class raises becomes a UserError, your own class keeps its exception."""
    try:
        return cls(*args, **kwargs)
    except Exception as error:
        if cls.__module__.partition(".")[0] in LIBRARIES and not isinstance(error, UserError):
            raise UserError(f"{cls.__module__}.{cls.__qualname__}: {error}") from error
        raise


class _Raised(BaseException):
    """Passes an error through the parser, which would try one type after another and report all of them."""


class _Maker:
    """Makes each object of a config. An optimizer holds it, and is made when `surround` is gone."""

    def __init__(self, surround: Callable[[type], AbstractContextManager[Any]]) -> None:
        self.surround: Callable[[type], AbstractContextManager[Any]] | None = surround

    def __call__(self, cls: type, *args: Any, **kwargs: Any) -> Any:
        if self.surround is None:
            return construct(cls, *args, **kwargs)
        try:
            with self.surround(cls):
                return construct(cls, *args, **kwargs)
        except Exception as error:
            if not isinstance(error, UserError):
                values = ", ".join(f"{name}={value!r:.60}" for name, value in kwargs.items())
                error.add_note(f"from {cls.__module__}.{cls.__qualname__}({values})")
            raise _Raised(error) from None


def instantiate(
    parser: ArgumentParser, config: Namespace, surround: Callable[[type], AbstractContextManager[Any]] = nullcontext
) -> Namespace:
    """Make all objects that a config names; an exception arrives as the class raised it.

    Args:
        parser: The parser that read the config.
        config: The parsed config.
        surround: Returns the context in which an object of a class is made.
    """
    make = _Maker(surround)
    try:
        made: Namespace = parser.instantiate(config, instantiators=[(make, object, True)])
        return made
    except _Raised as raised:
        first: BaseException = raised.args[0]
    except Exception as error:
        first = error
        while inner := first.__cause__ or first.__context__:  # a function raised it
            first = inner
    finally:
        make.surround = None
    raise first
