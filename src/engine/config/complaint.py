"""What a parser complains of: the message, and the class whose arguments it was about."""

import contextlib
import inspect
import itertools
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import yaml
from lightning.pytorch import LightningDataModule, LightningModule

# What a user need not name, because it has a default or a place of its own.
PLACES = {LightningModule: "model", LightningDataModule: "data"}


class Complaint(SystemExit):
    """Ends the parsing, past all that would add to it.

    Attributes:
        message: The parser's.
        kind: The class whose arguments were parsed; None for the command line itself.
        options: Gives the names that it takes.
    """

    def __init__(self, message: str, kind: Any, options: Callable[[], Iterable[str]]) -> None:
        super().__init__(message)
        self.message = message
        self.kind = kind
        self.options = options


def lacks(kind: Any, names: str, arguments: list[str]) -> str:
    """What to say of arguments that are missing: which class, and how to give them.

    Args:
        kind: The class; None for the command line itself.
        names: Of the arguments, with commas between.
        arguments: The command line.
    """
    if not any(key == "model" for key, _ in named(arguments)) and (kind is None or issubclass(kind, LightningModule)):
        return f"{names} required: name the YAML of an experiment first, --config configs/<name>.yaml"
    each = names.split(", ")
    if kind is None:
        classes = ", ".join(f"--{name} CLASS, or in a file {name}: {{class_path: CLASS}}" for name in each)
        return f"{names} required: {classes}"
    option = option_of(kind, arguments)
    flags = " ".join(f"--{option}.{name} VALUE" for name in each)
    path = f"{kind.__module__}.{kind.__qualname__}"
    inits = ", ".join(f"{name}: VALUE" for name in each)
    return (
        f"{kind.__name__} needs {names}. On the command line: {flags}; in a file, at {option}: "
        f"{{class_path: {path}, init_args: {{{inits}}}}}"
    )


def option_of(kind: Any, arguments: list[str]) -> str:
    """The option that names a class: `model.scheduler`; where none does, the name of the class.

    Args:
        kind: The class, or a function.
        arguments: The command line.
    """
    for base, place in PLACES.items():
        if inspect.isclass(kind) and issubclass(kind, base):
            return place
    found = [key for key, value in named(arguments) if value.rpartition(".")[2] == kind.__name__]
    return found[-1] if found else str(kind.__name__)


def named(arguments: list[str]) -> Iterator[tuple[str, str]]:
    """Each option with its text, first of the files, then of the command line; a class stands for its section."""
    for number, argument in enumerate(arguments):
        key, has_value, value = argument.partition("=")
        if not key.startswith("-"):
            continue
        value = value if has_value else "".join(arguments[number + 1 : number + 2])
        if key in ("--config", "-c"):
            yield from _within("", _read(value))
        else:
            yield from _within(key.strip("-+").replace(".init_args", ""), _read(value, file=False))


def beside_class_path(arguments: list[str]) -> tuple[str, str, str] | None:
    """Return the section, the class and the argument where one stands beside `class_path`, not within `init_args`.

    Args:
        arguments: The command line.
    """

    def search(option: str, value: Any) -> Iterator[tuple[str, str, str]]:
        if isinstance(value, dict):
            others = [key for key in value if key not in ("class_path", "init_args", "dict_kwargs")]
            if "class_path" in value and others:
                yield option, str(value["class_path"]), str(others[0])
            for key, part in value.items():
                yield from search(option if key == "init_args" else f"{option}.{key}".strip("."), part)
        elif isinstance(value, list):
            for part in value:
                yield from search(option, part)

    configs = [_read(text) for name, text in itertools.pairwise(arguments) if name in ("--config", "-c")]
    return next((found for config in configs for found in search("", config)), None)


def _read(text: str, file: bool = True) -> Any:
    with contextlib.suppress(OSError, UnicodeDecodeError):  # a config as a text is too long for a name
        text = Path(text).read_text(encoding="utf-8") if file else text
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError:
        return text


def _within(key: str, value: Any) -> Iterator[tuple[str, str]]:
    if isinstance(value, dict):
        if key:
            yield key, str(value.get("class_path", ""))
        for name, part in value.items():
            if name != "class_path":
                yield from _within(key if name == "init_args" else f"{key}.{str(name).strip('+')}".strip("."), part)
    elif isinstance(value, list):
        for part in value:
            yield from _within(key, part)
    else:
        yield key, str(value)
