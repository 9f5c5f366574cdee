"""Read YAML, merge what a command is given to one config, and write it so that it can be read again.

A command is given `local.yaml`, a checkpoint's config, files and options. Dicts merge, null deletes an entry, `key+`
appends to a list, and everything else is replaced. A section without content is no section. A class that takes the
place of another begins with its own defaults.
"""

import inspect
import re
import sys
from collections.abc import Hashable, Iterator
from contextlib import suppress
from functools import reduce
from pathlib import Path
from pydoc import locate
from typing import Any

import yaml
from lightning_utilities.core.apply_func import apply_to_collection

from src.engine.config.messages import nearest, places_of
from src.engine.errors import UserError, one_line
from src.engine.paths import at_home, shorten
from src.engine.processes import is_rank_zero

CLASS_KEYS = {"class_path", "init_args", "dict_kwargs"}
LIBRARIES = ("torch", "torchvision", "torchmetrics", "lightning")
# Begins the text that jsonargparse writes in place of an object that text cannot hold.
UNWRITABLE = "Unable to serialize instance "
# Floats of YAML 1.2, the parser and OmegaConf; PyYAML would not quote such texts.
FLOAT = re.compile(
    r"^(?:[-+]?(?:[0-9][0-9_]*)\.[0-9_]*(?:[eE][-+]?[0-9]+)?|[-+]?(?:[0-9][0-9_]*)(?:[eE][-+]?[0-9]+)"
    r"|[-+]?\.[0-9][0-9_]*(?:[eE][-+]?[0-9]+)?|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))$"
)
PLAIN = (type(None), bool, int, float, str, list, tuple, dict)


class Dumper(yaml.SafeDumper):
    """Quotes each text that a reader could take for a number, and marks values that are not plain."""

    yaml_representers = {kind: yaml.SafeDumper.yaml_representers[kind] for kind in PLAIN}  # noqa: RUF012


class Loader(yaml.SafeLoader):
    """Reads YAML in which 1e-3 is a number, a date is a text, keys are unique, and `init_args` may be empty."""

    yaml_implicit_resolvers = {  # noqa: RUF012, PyYAML's own table
        first: [(tag, pattern) for tag, pattern in resolvers if not tag.endswith((":timestamp", ":float"))]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        lines: dict[tuple[str, str], int] = {}
        for key, _ in node.value:
            name = (key.tag, str(key.value))
            if name in lines and key.value != "<<":
                first = f"{key.value!r} is given twice, first in line {lines[name]}"
                raise yaml.constructor.ConstructorError(problem=first, problem_mark=key.start_mark)
            lines[name] = key.start_mark.line + 1
        found = super().construct_mapping(node, deep)
        return {key: value for key, value in found.items() if value is not None or key != "init_args"}


for each in (Dumper, Loader):
    each.add_implicit_resolver("tag:yaml.org,2002:float", FLOAT, list("-+0123456789."))
Dumper.add_multi_representer(object, lambda dumper, value: dumper.represent_str(f"{UNWRITABLE}{value}"))


def as_yaml(config: Any) -> str:
    """Return YAML that any reader takes for the same plain values."""
    return yaml.dump(config, Dumper=Dumper, sort_keys=False, allow_unicode=True, width=1000)


def read_text(path: Path) -> str:
    """Read a file; a UserError says why it cannot be read."""
    try:
        return path.read_text(encoding="utf-8-sig")
    except (UnicodeDecodeError, OSError) as error:
        raise UserError(f"{path}: this is no UTF-8 text that can be read: {error}.") from error


def load(text: str, name: str) -> dict[str, Any]:
    """Return the options in a YAML text; a UserError names the file and the line of a mistake."""
    try:
        content = yaml.load(text, Loader) or {}  # a file of comments
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f", line {mark.line + 1}" if mark else ""
        problem = getattr(error, "problem", None) or one_line(error)
        raise UserError(f"{name}{line}: this YAML cannot be read: {problem}.") from error
    if not isinstance(content, dict):
        raise UserError(f"{name}: expected options by their names (`trainer:`), got {content!r:.40}.")
    return content


def read_config(name: str, above: tuple[Path, ...] = ()) -> dict[str, Any]:
    """Read YAML text, or a file on top of those that its key `config` names; a UserError names the file and the line.

    Args:
        name: The text, or the file's name.
        above: The files whose key `config` leads to this one.
    """
    if "\n" in name or name.lstrip().startswith("{"):
        return load(name, "--config")
    path = at_home(name)
    if not path.is_file():
        known = {each.stem: str(each) for folder in (path.parent, Path("configs")) for each in folder.glob("*.yaml")}
        what = "this is a folder" if path.is_dir() else "there is no such file"
        place = f"{shorten(above[-1])}: config:" if above else "--config"
        raise UserError(f"{place} {name}: {what}{nearest(path.stem, known) or '.'}")
    if path.resolve() in above:
        raise UserError(f"{path}: its `config:` entries include each other in a cycle. Remove one.")
    content = load(read_text(path), str(path))
    names = [str(path.parent / at_home(str(base))) for base in _as_list(content.pop("config", None))]
    # Onto nothing `key+` would start a list; in a file alone it waits for the list of an earlier one.
    return reduce(merge, [*(read_config(each, (*above, path.resolve())) for each in names), content])


def merge(base: Any, over: Any, at: str = "") -> Any:
    """Merge a value into an earlier one by the rule above; `at` is the option whose value both are."""
    if isinstance(base, list) and base and isinstance(over, dict) and not _is_class(over):
        return [*base[:-1], merge(base[-1], over, at)]  # `trainer.callbacks.monitor` is the last one's
    if isinstance(base, dict) and isinstance(over, str):
        over = _as_option(over) if over.startswith("{") else over
        # A function takes no options: its name stays alone.
        if (_is_class(base) or at in ("model", "data")) and inspect.isclass(find_class(str(over), at)):
            over = {"class_path": over}
    if not isinstance(over, dict):
        return over
    base = {"class_path": base} if isinstance(base, str) else base if isinstance(base, dict) else {}
    if not (at in ("model", "data") or _is_class(base) or _is_class(over)):
        return _merge_entries(base, over, at, deletes="." in at)
    base, over = (value if _is_class(value) or not value else {"init_args": value} for value in (base, over))
    if stray := [key for key in over if key not in CLASS_KEYS]:
        right = f"{{class_path: {over.get('class_path', 'CLASS')}, init_args: {{{stray[0]}: VALUE}}}}"
        raise UserError(f"{at}.{stray[0]} stands beside class_path. Write {at}: {right}")
    # A class that cannot be found was renamed, or is mistyped, which the parser reports.
    names = base.get("class_path"), over.get("class_path")
    was, now = (find_class(str(name), at) if all(names) else None for name in names)
    if None not in (was, now) and was is not now and not _is_your_subclass(now, was):
        kept, given = over.get("init_args") or {}, base.get("init_args") or {}
        lost = ", ".join(f"{name}={value}" for name, value in given.items() if name not in kept)
        if lost and is_rank_zero():
            print(f"note: {at} is now {names[1]}, without the old class's {lost}", file=sys.stderr)
        base = {}
    merged = {**base, **over}
    for part in ("init_args", "dict_kwargs"):
        if part in merged:
            merged[part] = _merge_entries(base.get(part) or {}, over.get(part) or {}, at, deletes=False)
    return merged


def _merge_entries(base: dict[str, Any], over: dict[str, Any], at: str, deletes: bool) -> dict[str, Any]:
    """Merge two dicts by key; null deletes an entry of the user's own dict, and is a value elsewhere."""
    merged = dict(base)
    for key, value in over.items():
        name = key.removesuffix("+") if isinstance(key, str) else key
        was = merged.get(name)
        if key != name:
            place = key if key in merged else name  # that of an earlier fragment waits for a list, too
            merged[place] = [*_as_list(merged.get(place)), *_as_list(value)]
        elif value is None and deletes and key in merged:
            del merged[key]
        elif value is not None or at or not isinstance(was, dict | None):  # an empty section is none
            merged[key] = merge(was, value, f"{at}.{key}".strip("."))
    return merged


def _as_list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [] if value is None else [value]


def _is_class(value: Any) -> bool:
    """Return whether a value says how an object is made."""
    return isinstance(value, dict) and bool(CLASS_KEYS & value.keys())


def find_class(path: str, option: str = "") -> Any:
    """Find a class or function; None if there is none.

    Args:
        path: Its full path, or the name alone if the option allows that.
        option: The option whose value it is.
    """
    for each in [path] if "." in path else [f"{place}.{path}" for place in places_of(option)]:
        with suppress(Exception):  # importing a user's module may fail in any way; the parser will say how
            if (found := locate(each)) is not None:
                return found
    return None


def _is_your_subclass(cls: Any, of: Any) -> bool:
    """Return whether a class of yours inherits from another, and so its arguments."""
    both = inspect.isclass(cls) and inspect.isclass(of)
    return both and issubclass(cls, of) and cls.__module__.partition(".")[0] not in LIBRARIES


def compose(carried: dict[str, Any], words: list[str]) -> tuple[dict[str, Any], list[str]]:
    """Merge `local.yaml`, a checkpoint's config, the files and the options; the later wins.

    Args:
        carried: The config of the checkpoint that the run starts from, or an empty dict.
        words: The command line after the verb.

    Returns:
        The config, and the words that are not options of the run: `--help`, `--print_config`, or a mistake.
    """
    local = read_config("local.yaml") if Path("local.yaml").is_file() else {}
    config, left = reduce(merge, [local, carried, *map(read_config, given(words, "config", "c"))]), []
    for name, value, own_words in _options(words):
        if value is None or name.startswith("print_") or name.endswith("help"):
            left += own_words
        elif name not in ("config", "c", "ckpt_path"):
            *path, key = name.split(".")
            entry = {key: _as_option(value) if key.endswith("+") or value in ("null", "~") else value}
            config = merge(config, reduce(lambda below, part: {part: below}, reversed(path), entry))
    return apply_to_collection(config, str, lambda text: str(at_home(text)) if text[:2] == "~/" else text), left


def given(words: list[str], *names: str) -> list[str]:
    """Return what an option was given, each time it was."""
    return [value for name, value, _ in _options(words) if name in names and value is not None]


def _as_option(text: str) -> Any:
    """Read a list, a dict or null; any other text stays as it is."""
    try:
        value = yaml.load(text, Loader)
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
