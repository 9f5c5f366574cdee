"""Null where no null is meant: the parser takes it for "not given" and hands it on."""

import inspect
import typing
from types import NoneType
from typing import Any

from jsonargparse import Namespace
from torch.optim.lr_scheduler import LRScheduler

from src.engine.config.merge import find_class
from src.engine.errors import UserError


def refuse_nulls(config: Any, kinds: dict[str, Any], at: str = "") -> None:
    """See that null was given only to what may be null.

    Args:
        config: What the parser made of files and options, of any depth.
        kinds: What takes the options of each section at the top.
        at: The option that it is the value of.

    Raises:
        UserError: Names the option, its type and its default.
    """
    if isinstance(config, list):
        for part in config:
            refuse_nulls(part, kinds, at)
    values = vars(config) if isinstance(config, Namespace) else config if isinstance(config, dict) else {}
    kind = find_class(values["class_path"]) if "init_args" in values and "class_path" in values else kinds.get(at)
    # The length of a scheduler may be null, whatever its type: it becomes that of the run.
    if kind and not (inspect.isclass(kind) and issubclass(kind, LRScheduler)):
        refuse_in(kind, vars(values["init_args"]) if "class_path" in values else values, at)
    for name, value in values.items():
        refuse_nulls(value, kinds, at if name == "init_args" else f"{at}.{name}".strip("."))


def refuse_in(kind: Any, arguments: dict[str, Any], at: str) -> None:
    """See that none of a class's arguments is null that has another default and a type without null."""
    for name in [name for name, value in arguments.items() if value is None]:
        for maker in [vars(base).get("__init__") for base in kind.__mro__] if inspect.isclass(kind) else [kind]:
            parameter = inspect.signature(maker).parameters.get(name) if inspect.isroutine(maker) else None
            if parameter is None:
                continue
            hint = type_of(maker, name)
            if parameter.default not in (None, inspect.Parameter.empty) and not takes_null(hint):
                raise UserError(
                    f"{at}.{name} cannot be null: {kind.__name__} expects {inspect.formatannotation(hint)}. Leave the "
                    f"line out for its default, {parameter.default!r}."
                )
            break


def type_of(maker: Any, name: str) -> Any:
    """The type of an argument; Any where nobody says it."""
    try:
        return typing.get_type_hints(maker).get(name, Any)
    except Exception:  # a name that is known to type checkers alone
        return Any


def takes_null(hint: Any) -> bool:
    """Whether a type has null among its values."""
    return hint in (Any, None, NoneType, object) or any(takes_null(part) for part in typing.get_args(hint))
