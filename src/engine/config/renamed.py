"""A checkpoint whose config names a class that has another name, or another place, since."""

import importlib
from collections.abc import Iterable
from typing import Any

import yaml

from src.engine.errors import UserError
from src.engine.paths import at_home


def follow_renamed(carried: dict[str, Any], arguments: list[str], files: Iterable[str]) -> dict[str, Any]:
    """The config of a checkpoint with the names that classes have today, and the arguments that they were given.

    Args:
        carried: The config; stays as it is.
        arguments: The command line: `--model.net mynets.NewNet` names the class of today.
        files: Those of --config, which may name it, too.

    Raises:
        UserError: If a class is gone and nothing names another.
    """
    return {key: _follow(value, key, arguments, [_read(file) for file in files]) for key, value in carried.items()}


def _follow(node: Any, key: str, arguments: list[str], files: list[Any]) -> Any:
    if isinstance(node, list):
        return [_follow(each, key, arguments, files) for each in node]
    if not isinstance(node, dict):
        return node
    if isinstance(old := node.get("class_path"), str) and (why := _is_gone(old)):
        new = _option(key, arguments) or next((name for file in files if (name := _in_file(file, key))), None)
        if new is None:
            raise UserError(
                f"The checkpoint's {key} is {old}, which is gone: {why}. Say its name of today: --{key} NAME."
            )
        node = node | {"class_path": new}
    return {
        name: _follow(each, key if name == "init_args" else f"{key}.{name}", arguments, files)
        for name, each in node.items()
    }


def _is_gone(name: str) -> str:
    """Why a class cannot be found, in words; nothing if it can."""
    module, _, cls = name.rpartition(".")
    try:
        found = importlib.import_module(module) if module else None
    except ModuleNotFoundError as error:
        # A module that is there may miss another: then its own error tells more.
        return f"there is no module {error.name}" if f"{module}.".startswith(f"{error.name}.") else ""
    except Exception:  # that one as well
        return ""
    return "" if found is None or hasattr(found, cls) else f"{module} has no {cls}"


def _option(key: str, arguments: list[str]) -> str | None:
    """The class that the command line names for an option."""
    options = (f"--{key}", f"--{key}.class_path")
    for argument, following in zip(arguments, [*arguments[1:], ""], strict=True):
        name, equals, value = argument.partition("=")
        if name in options:
            return value if equals else following
    return None


def _read(file: str) -> Any:
    try:
        return yaml.safe_load(at_home(file).read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError):
        return None  # the parser tells what is wrong with it


def _in_file(node: Any, key: str) -> str | None:
    """The class that a file names for an option."""
    for name in key.split("."):
        if isinstance(node, dict) and name not in node:
            node = node.get("init_args")
        node = node.get(name) if isinstance(node, dict) else None
    found = node.get("class_path") if isinstance(node, dict) else node
    return found if isinstance(found, str) else None


def as_options(overrides: dict[str, Any]) -> list[str]:
    """The arguments that a module gets in Python, as the command line would name their classes."""
    return [word for name, value in overrides.items() for word in (f"--model.{name}", _class_of(value))]


def _class_of(value: Any) -> str:
    """The class that an argument names or is an object of."""
    if isinstance(value, dict) and "class_path" in value:
        return str(value["class_path"])
    return value if isinstance(value, str) else f"{type(value).__module__}.{type(value).__qualname__}"
