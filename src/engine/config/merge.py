"""The one rule by which configs are put together: dicts merge, null deletes, lists are replaced or appended.

A section without content is no section. A class that is named anew begins with its own defaults.
"""

import importlib
import inspect
from pathlib import Path
from typing import Any

from src.engine.config import classes

# The value of `trainer:` with nothing below it.
EMPTY = object()
CLASS_KEYS = {"class_path", "init_args", "dict_kwargs"}
# Sections whose class has a default, so that YAML may leave it out.
CLASSES = ("model", "data")
# Where a class stands that is called by its name alone.
PLACES = tuple(dict.fromkeys(place for places in classes.CLASSES.values() for place in places))


class Merge:
    """Puts one config on top of another; what it leaves out is told in `notes`.

    Args:
        sections: Names of the options at the top that have others below them.
    """

    def __init__(self, sections: set[str]) -> None:
        self.notes: list[str] = []
        self._sections = sections

    def __call__(self, base: dict[str, Any], over: dict[str, Any], at: str = "", plain: bool = False) -> dict[str, Any]:
        """The rule.

        Args:
            base: What was said before.
            over: What is said now.
            at: The option that both are the value of.
            plain: Whether it is a dict of the user's, with entries that can be deleted.
        """
        if at in CLASSES or is_class(base) or is_class(over):
            return self._merge_class(as_class(base), as_class(over), at)
        return self._entries(base, over, at, plain)

    def _entries(self, base: dict[str, Any], over: dict[str, Any], at: str, plain: bool) -> dict[str, Any]:
        merged = dict(base)
        for key, value in over.items():
            if isinstance(key, str) and key.endswith("+"):
                append(merged, key, value)
            else:
                self.put(merged, key, value, f"{at}.{key}".strip("."), plain)
        return merged

    def put(self, merged: dict[str, Any], key: Any, value: Any, at: str, plain: bool) -> None:
        """Set one entry, in place."""
        was = merged.get(key)
        if value is EMPTY and (at in self._sections or isinstance(was, dict | list)):
            return
        merged.pop(f"{key}+", None)
        if isinstance(was, dict) and is_class(was) and isinstance(value, str) and names_class(value):
            value = by_name(value)
        if isinstance(value, dict):
            below = was if isinstance(was, dict) else {}
            if isinstance(was, str) and is_class(value) and names_class(was):
                below = {"class_path": was}
            merged[key] = self(below, value, at, plain="." in at or at not in self._sections)
        elif value is None and plain and key in merged:
            del merged[key]
        else:
            merged[key] = settled(value)

    def _merge_class(self, base: dict[str, Any], over: dict[str, Any], at: str) -> dict[str, Any]:
        old, new = base.get("class_path"), over.get("class_path")
        if old and new and not goes_on(old, new):
            self.tell_dropped(at, base, over)
            base = {}
        merged = dict(base)
        for key, value in over.items():
            if key in ("init_args", "dict_kwargs") and value is not EMPTY:
                merged[key] = self._entries(base.get(key) or {}, value or {}, at, plain=False)
            elif value is not EMPTY:
                merged[key] = value
        return merged["init_args"] if merged.keys() == {"init_args"} else merged

    def tell_dropped(self, at: str, base: dict[str, Any], over: dict[str, Any]) -> None:
        """Note the arguments of a class that another takes the place of."""
        kind, again = find_class(base["class_path"]), over.get("init_args") or {}
        lost = {key: value for key, value in (base.get("init_args") or {}).items() if key not in again}
        if kind:
            usual = inspect.signature(kind).parameters
            lost = {key: value for key, value in lost.items() if key not in usual or usual[key].default != value}
        if lost:
            values = ", ".join(f"{key}={value}" for key, value in lost.items())
            new = over["class_path"]
            self.notes.append(f"{at} is now {new}: what {base['class_path']} was given is left out ({values})")


def is_class(value: dict[str, Any]) -> bool:
    """Whether a dict says how an object is made."""
    return bool(CLASS_KEYS & value.keys())


def as_class(value: dict[str, Any]) -> dict[str, Any]:
    """Arguments alone, as a class's."""
    return value if is_class(value) or not value else {"init_args": value}


def settled(value: Any) -> Any:
    """A value with null where a list or a dict in it has nothing."""
    if isinstance(value, dict):
        return {k: settled(v) for k, v in value.items() if v is not EMPTY or k not in ("init_args", "dict_kwargs")}
    if isinstance(value, list):
        return [settled(part) for part in value]
    return None if value is EMPTY else value


def append(merged: dict[str, Any], key: str, value: Any) -> None:
    """Append to a list; where there is none yet, leave it to the parser, which knows the default."""
    new = settled(value) if isinstance(value, list) else [settled(value)] if value not in (None, EMPTY) else []
    name = key.removesuffix("+")
    at = name if name in merged else key
    was = merged.get(at)
    merged[at] = [*(was if isinstance(was, list) else [was] if was is not None else []), *new]


def names_class(text: str) -> bool:
    """Whether a text may be the path or the name of a class."""
    return all(part.isidentifier() for part in text.split(".")) and not Path(text).is_file()


def find_class(path: str) -> Any:
    """A class by its full path, one of a library also by its name; nothing where it is not there."""
    module, _, name = path.rpartition(".")
    for place in (module,) if module else PLACES:
        try:
            found = getattr(importlib.import_module(place), name, None)
        except Exception:  # a module of the user's may fail in any way: the parser tells of it when it comes there
            return None
        if found is not None:
            return found
    return None


def by_name(path: str) -> str | dict[str, str]:
    """What stands in a config for a class that is named alone; a function takes no options and stays a name."""
    found = find_class(path)
    return path if found is not None and not inspect.isclass(found) else {"class_path": path}


def goes_on(old: str, new: str) -> bool:
    """Whether a class keeps the arguments of the one before: the same, one of yours that builds on it, a new name."""
    was, now = find_class(old), find_class(new)
    if old == new or was is None or was is now:
        return True
    library = getattr(now, "__module__", "").partition(".")[0] in {place.partition(".")[0] for place in PLACES}
    return not library and inspect.isclass(now) and inspect.isclass(was) and issubclass(now, was)
