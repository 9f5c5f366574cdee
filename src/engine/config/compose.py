"""Merge what a command is given to one config: `local.yaml`, a checkpoint's config, files and options, by one rule.

Dicts merge, null deletes an entry, `key+` appends to a list, and everything else is replaced. A section without content
is no section. A class that takes the place of another begins with its own defaults.
"""

import importlib
import inspect
import itertools
import re
import sys
from collections.abc import Iterator
from contextlib import suppress
from functools import reduce
from pathlib import Path
from typing import Any

import yaml

from src.engine.config.files import EMPTY, LOCAL, Loader, load, read_text
from src.engine.config.messages import nearest, places_of
from src.engine.errors import UserError
from src.engine.paths import at_home
from src.engine.processes import is_rank_zero

CLASS_KEYS = {"class_path", "init_args", "dict_kwargs"}
LIBRARIES = ("torch", "torchvision", "torchmetrics", "lightning")
# `${trainer.max_epochs}`, but no resolver as in `${oc.env:NAME}`: what it says may be gone.
REFERENCE = re.compile(r"\$\{[a-zA-Z_][\w.]*\}")


def read_config(name: str) -> dict[str, Any]:
    """Read what --config was given.

    Args:
        name: A file's name, or options as text.

    Raises:
        UserError: Names the file, and the line where there is one.
    """
    if "\n" in name or name.lstrip().startswith("{"):
        return load(name, "--config")
    path = at_home(name)
    if not path.is_file():
        there = sorted(str(each) for folder in {path.parent, Path("configs")} for each in folder.glob("*.yaml"))
        same = [each for each in there if Path(each).stem == path.stem]
        near = f". Did you mean {same[0]}?" if same else nearest(name, there) or "."
        raise UserError(f"--config {name}: {'this is a folder' if path.is_dir() else 'there is no such file'}{near}")
    return _read(path, ())


def _read(path: Path, above: tuple[Path, ...]) -> dict[str, Any]:
    """Read a file, on top of those that its key `config` names."""
    if path.resolve() in above:
        raise UserError(f"{path}: the files that `config:` names lead back to it.")
    content = load(read_text(path), str(path))
    bases = content.pop("config", None)
    merged: dict[str, Any] = {}
    for base in bases if isinstance(bases, list) else [bases] if bases not in (None, EMPTY) else []:
        below = path.parent / at_home(str(base))
        if not below.is_file():
            raise UserError(f"{path}: config: {base}: {below} does not exist; the path is relative to the file itself.")
        merged = merge(merged, _read(below, (*above, path.resolve())))
    return merge(merged, content)


def merge(base: dict[str, Any], over: dict[str, Any], at: str = "") -> dict[str, Any]:
    """Put one config on top of another, by the rule above.

    Args:
        base: What was said before.
        over: What is said now.
        at: The option that both are the value of.
    """
    if not (at in ("model", "data") or _is_class(base) or _is_class(over)):
        return _merge_entries(base, over, at, deletes="." in at)
    base, over = (value if _is_class(value) or not value else {"init_args": value} for value in (base, over))
    if stray := [key for key in over if key not in CLASS_KEYS]:
        right = f"{{class_path: {over.get('class_path', 'CLASS')}, init_args: {{{stray[0]}: VALUE}}}}"
        raise UserError(f"{at}.{stray[0]} stands beside class_path. Write {at}: {right}")
    old, new = base.get("class_path"), over.get("class_path")
    if isinstance(old, str) and isinstance(new, str) and not _keeps_arguments(old, new, at):
        _note_dropped(base, over, at)
        base = {}
    merged = {**base, **over}
    for part in ("init_args", "dict_kwargs"):
        if part in merged:
            merged[part] = _merge_entries(_content(base.get(part)), _content(over.get(part)), at, deletes=False)
    return merged


def _merge_entries(base: dict[str, Any], over: dict[str, Any], at: str, deletes: bool) -> dict[str, Any]:
    """Merge by key; null deletes an entry of a dict of the user's, and is a value elsewhere."""
    merged = dict(base)
    for key, value in over.items():
        name = f"{at}.{key}".strip(".")
        appends = isinstance(key, str) and key.endswith("+")
        # Where no list is known yet, the parser appends: it knows the default.
        open_list = f"{key}+" in merged and isinstance(value, dict) and not _is_class(value)
        place = key[:-1] if appends and key[:-1] in merged else f"{key}+" if open_list else key
        was = merged.get(place)
        if value is EMPTY and (not at or isinstance(was, dict | list)):
            continue
        if not appends and not open_list:
            merged.pop(f"{key}+", None)
        if value is None and deletes and key in merged:
            del merged[key]
        elif appends:
            merged[place] = [*_as_list(was), *_as_list(value)]
        else:
            merged[place] = _put(was, value, name)
    return merged


def _put(was: Any, value: Any, at: str) -> Any:
    """Return the new value of an entry."""
    if isinstance(was, list) and was and isinstance(value, dict) and not _is_class(value):
        return [*was[:-1], _put(was[-1], value, at)]  # `trainer.callbacks.monitor` is the last one's
    if isinstance(was, dict) and isinstance(value, str) and value.startswith("{"):
        value = _as_option(value)
    if isinstance(value, str) and _names_class(value) and (_is_class(was) or (was and at in ("model", "data"))):
        found = find_class(value, at)
        # A function takes no options: its name stays alone.
        value = {"class_path": value} if found is None or inspect.isclass(found) else value
    if isinstance(was, str) and _names_class(was) and isinstance(value, dict):
        was = {"class_path": was}
    return merge(was if isinstance(was, dict) else {}, value, at) if isinstance(value, dict) else value


def _settled(value: Any) -> Any:
    """Put null where there is nothing, and the home folder in place of `~`, in a value of any depth."""
    if isinstance(value, dict):
        return {key: _settled(part) for key, part in value.items() if part is not EMPTY or key not in CLASS_KEYS}
    if isinstance(value, list):
        return [_settled(part) for part in value]
    if isinstance(value, str) and value.startswith("~/"):
        return str(at_home(value))
    return None if value is EMPTY else value


def _content(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _as_list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [] if value in (None, EMPTY) else [value]


def _is_class(value: Any) -> bool:
    """Return whether a value says how an object is made."""
    return isinstance(value, dict) and bool(CLASS_KEYS & value.keys())


def _names_class(text: str) -> bool:
    """Return whether a text may be the path or the name of a class."""
    return all(part.isidentifier() for part in text.split(".")) and not Path(text).is_file()


def find_class(path: str, option: str = "") -> Any:
    """Find a class or function; None where it is not there.

    Args:
        path: Its full path, or the name alone of one that the option takes so.
        option: Whose value it is.
    """
    module, _, name = path.rpartition(".")
    for place in [module] if module else places_of(option):
        # A module of the user's may fail in any way: the parser tells of it when it comes there.
        with suppress(Exception):
            return getattr(importlib.import_module(place), name)
    return None


def _keeps_arguments(old: str, new: str, at: str) -> bool:
    """Return whether a class takes over the arguments of another: the same, or one of yours that builds on it.

    One that is not there is a class's name of before, or a mistake of which the parser will tell.
    """
    was, now = find_class(old, at), find_class(new, at)
    if old == new or was is None or now is None or was is now:
        return True
    both = inspect.isclass(was) and inspect.isclass(now)
    return both and issubclass(now, was) and now.__module__.partition(".")[0] not in LIBRARIES


def _note_dropped(base: dict[str, Any], over: dict[str, Any], at: str) -> None:
    """Say which arguments a class loses that another takes the place of."""
    usual = inspect.signature(find_class(base["class_path"], at)).parameters
    lost = {
        name: value
        for name, value in _content(base.get("init_args")).items()
        if name not in _content(over.get("init_args")) and (name not in usual or usual[name].default != value)
    }
    if lost and is_rank_zero():
        values = ", ".join(f"{key}={value}" for key, value in lost.items())
        told = f"{at} is now {over['class_path']}: what {base['class_path']} was given is left out ({values})"
        print(f"note: {told}", file=sys.stderr)


def compose(carried: dict[str, Any], words: list[str]) -> tuple[dict[str, Any], list[str]]:
    """Put together `local.yaml`, a checkpoint's config, the files and the options, of which the later wins.

    Args:
        carried: The config of the checkpoint that the run starts from, or an empty dict.
        words: The command line behind the verb.

    Returns:
        The config, and the words that are no options of the run: `--help`, `--print_config`, or a mistake.
    """
    config, left = merge(_read(LOCAL, ()) if LOCAL.is_file() else {}, carried), []
    for name in given(words, "config", "c"):
        config = merge(config, read_config(name))
    for name, value, own_words in _options(words):
        if value is None or name.startswith("print_") or name.endswith("help"):
            left += own_words
        elif name not in ("config", "c", "ckpt_path"):
            *path, key = name.split(".")
            entry = {key: _as_option(value) if key.endswith("+") or value in ("null", "~") else value}
            config = merge(config, reduce(lambda below, part: {part: below}, reversed(path), entry))
    return _settled(config), left


def given(words: list[str], *names: str) -> list[str]:
    """Return what an option was given, each time it was."""
    return [value for name, value, _ in _options(words) if name in names and value is not None]


def _as_option(text: str) -> Any:
    """Read a list, a dict or null; any other text stays as it is."""
    try:
        value = _settled(yaml.load(text, Loader))
    except yaml.YAMLError:  # the parser will complain
        return text
    return value if value is None or isinstance(value, dict | list) else text


def _options(words: list[str]) -> Iterator[tuple[str, str | None, list[str]]]:
    """Yield the name of each option without dashes, its value if it has one, and its words."""
    rest = list(words)
    while rest:
        word = rest.pop(0)
        name, has_value, value = word.partition("=")
        if not name.startswith("-"):
            yield "", None, [word]
        elif has_value or not rest or rest[0].startswith("--"):
            yield name.lstrip("-"), value if has_value else None, [word]
        else:
            yield name.lstrip("-"), rest[0], [word, rest.pop(0)]


def resolved(config: dict[str, Any]) -> dict[str, Any]:
    """Return a config with values in place of its references."""
    if "${" not in str(config):
        return config
    from omegaconf import OmegaConf  # a tenth of a second, which --help need not wait

    values: Any = OmegaConf.to_container(OmegaConf.create(config), resolve=True)
    return dict(values)


def with_references(values: Any, given: Any, whole: dict[str, Any]) -> Any:
    """Return the values of a run, with the reference again where one was given.

    Args:
        values: As the parser found them, of any depth.
        given: What stands in their place in the files and options.
        whole: All values of the run, which references name.
    """
    if isinstance(values, dict):
        below = _content(given)
        below = {"init_args": below} if _is_class(values) and not _is_class(below) else below
        return {key: with_references(part, below.get(key), whole) for key, part in values.items()}
    if isinstance(values, list):
        parts = itertools.zip_longest(values, given[: len(values)] if isinstance(given, list) else [])
        return [with_references(part, below, whole) for part, below in parts]
    if isinstance(given, str) and REFERENCE.fullmatch(given):
        named: Any = whole
        for part in given[2:-1].split("."):
            named = _content(named).get(part)
        return given if named == values else values
    return values.replace("${", "\\${") if isinstance(values, str) else values
