"""Parse options: references between values, one-line errors, a short help, tensors; make the objects they name."""

import inspect
import re
import warnings
from argparse import RawDescriptionHelpFormatter
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import partial
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
from lightning.pytorch import LightningDataModule
from lightning.pytorch.cli import LightningArgumentParser
from omegaconf.errors import OmegaConfBaseException
from torch import Tensor
from torch.optim.lr_scheduler import LRScheduler

from src.engine.config.compose import LIBRARIES, UNWRITABLE, as_yaml
from src.engine.config.messages import explain
from src.engine.errors import UserError

Surround = Callable[[], AbstractContextManager[Any]]


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
        except OmegaConfBaseException as error:
            said = f"{error.full_key or 'config'}: {str(error).splitlines()[0]}"
            raise UserError(rf"{said}. A reference is ${{trainer.max_epochs}}, a text \${{...}}") from None

    def validate(self, namespace: Namespace, *args: Any, **kwargs: Any) -> None:
        """Also reject null where None is not allowed; jsonargparse treats it as not given."""
        try:
            super().validate(namespace, *args, **kwargs | {"skip_unset": False})
        except (TypeError, KeyError):
            super().validate(namespace, *args, **kwargs)  # which rather says that an argument is missing
            raise

    def add_class_arguments(self, theclass: Any, nested_key: str | None = None, **kwargs: Any) -> Any:
        """Allow null for the lengths of a scheduler, which means the length of the run."""
        if nested_key is None and inspect.isclass(theclass) and issubclass(theclass, LRScheduler):
            for name, given in inspect.signature(theclass).parameters.items():
                if name in ("T_max", "total_iters"):
                    kwargs["skip"] = {*kwargs.get("skip", ()), name}
                    default = None if given.default is given.empty else given.default
                    self.add_argument(f"--{name}", type=int | None, default=default)
        return super().add_class_arguments(theclass, nested_key, **kwargs)

    def dump(self, namespace: Namespace, *args: Any, **kwargs: Any) -> str:
        """Write each argument; leave out defaults that text cannot hold, which the class will set again."""
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=f"\\s*{UNWRITABLE}")
            text = str(super().dump(namespace, *args, **kwargs))
        if UNWRITABLE not in text:
            return text
        written = yaml.safe_load(text)
        # The parser looks for the import path of a text, too, where a function may stand as well.
        marked = [name for name, value in written.items() if UNWRITABLE in str(value)]
        written |= {name: yaml.safe_load(as_yaml(namespace[name])) for name in marked}
        return as_yaml({name: value for name, value in written.items() if UNWRITABLE not in str(value)})

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


def _make(raised: list[Any], surround: Surround, cls: type, *args: Any, **kwargs: Any) -> Any:
    """Make an object; note an error with its traceback, so far without the parser's frames."""
    try:
        with surround() if issubclass(cls, LightningDataModule) else nullcontext():
            return cls(*args, **kwargs)
    except Exception as error:
        name = f"{cls.__module__}.{cls.__qualname__}"
        if name.partition(".")[0] in LIBRARIES and not isinstance(error, UserError):
            error = UserError(f"{name}: {error}")
        elif not isinstance(error, UserError):
            error.add_note(f"from {name}({', '.join(f'{key}={value!r:.60}' for key, value in kwargs.items())})")
        raised.append((error, error.__traceback__))
        raise error


def instantiate(parser: ArgumentParser, config: Namespace, surround: Surround = nullcontext) -> Namespace:
    """Make all objects that a config names.

    The first exception arrives as your class raised it; that of a library's class becomes a UserError. The parser alone
    would try one type after another and report all of them.

    Args:
        parser: The parser that read the config.
        config: The parsed config.
        surround: Returns the context in which a data module is made, so that it draws the same whatever was made before
            it. It has to be pickled.
    """
    raised: list[tuple[BaseException, Any]] = []  # each with its traceback
    # An optimizer holds this function, and pickle takes it to a spawned process.
    make = partial(_make, raised, surround)
    try:
        made: Namespace = parser.instantiate(config, instantiators=[(make, object, True)])
    except Exception as error:
        first: BaseException = error
        while inner := first.__cause__ or first.__context__:  # a function raised it
            first = inner
        raised.append((first, first.__traceback__))
    for first, trace in raised:
        raise first.with_traceback(trace)
    return made
