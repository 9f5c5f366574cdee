"""The files that a command reads before it parses: `.env`, `local.yaml` and those of --config."""

import os
import re
from collections.abc import Hashable
from pathlib import Path
from typing import Any

import yaml

from src.engine.config.classes import nearest
from src.engine.config.merge import EMPTY, Merge
from src.engine.config.text import FLOAT
from src.engine.errors import UserError
from src.engine.paths import at_home

# What this machine wants of every run; any --config wins over it.
LOCAL = Path("local.yaml")


class Loader(yaml.SafeLoader):
    """YAML in which 1e-3 is a number, a date is a text, a key stands once, and nothing is not the same as `null`."""

    yaml_implicit_resolvers = {  # noqa: RUF012, PyYAML's own table
        first: [(tag, pattern) for tag, pattern in resolvers if not tag.endswith((":timestamp", ":float"))]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        lines: dict[Hashable, int] = {}
        for key, _ in node.value:
            # The value itself: 1 and true are one key of a dict, 4 and "4" are two.
            value = self.construct_object(key, deep=True) if isinstance(key, yaml.ScalarNode) else EMPTY
            if value is EMPTY:
                problem = "a key must be a text, a number, true, false or null"
                raise yaml.constructor.ConstructorError(problem=problem, problem_mark=key.start_mark)
            if value in lines and value != "<<":
                first = f"{key.value!r} stands here a second time, first in line {lines[value]}"
                raise yaml.constructor.ConstructorError(problem=first, problem_mark=key.start_mark)
            lines[value] = key.start_mark.line + 1
        return super().construct_mapping(node, deep)

    def construct_nothing(self, node: yaml.ScalarNode) -> Any:
        """Tell apart a section without content and a `null` that somebody wrote."""
        return None if node.value else EMPTY


Loader.add_implicit_resolver("tag:yaml.org,2002:float", FLOAT, list("-+0123456789."))
Loader.add_constructor("tag:yaml.org,2002:null", Loader.construct_nothing)


def read_config(name: str, merge: Merge) -> dict[str, Any]:
    """What --config was given: a file, or options as text.

    Args:
        name: The file's name, or the text.
        merge: Puts a file on top of those that it builds on.

    Raises:
        UserError: Names the file, and the line where there is one.
    """
    if "\n" in name or name.lstrip().startswith("{"):
        return _load(name, "--config")
    path = at_home(name)
    if not path.is_file():
        there = sorted(str(each) for folder in {path.parent, Path("configs")} for each in folder.glob("*.yaml"))
        same = [each for each in there if Path(each).stem == path.stem]
        near = f". Did you mean {same[0]}?" if same else nearest(name, there) or "."
        raise UserError(f"--config {name}: {'this is a folder' if path.is_dir() else 'there is no such file'}{near}")
    return _read(path, merge, ())


def read_local(merge: Merge) -> dict[str, Any]:
    """The options of `local.yaml`, where it is there; it may be empty."""
    return _read(LOCAL, merge, ()) if LOCAL.is_file() else {}


def _read(path: Path, merge: Merge, above: tuple[Path, ...]) -> dict[str, Any]:
    """A file, on top of those that its key `config` names."""
    if path.resolve() in above:
        raise UserError(f"{path}: the files that `config:` names lead back to it.")
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: this is no UTF-8 text ({error.reason}). Save it as UTF-8.") from error
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}.") from error
    content = _load(text, str(path))
    bases = content.pop("config", None)
    merged: dict[str, Any] = {}
    for base in bases if isinstance(bases, list) else [bases] if bases not in (None, EMPTY) else []:
        below = path.parent / at_home(str(base))
        if not below.is_file():
            raise UserError(f"{path}: config: {base}: {below} does not exist; the path is relative to the file itself.")
        merged = merge(merged, _read(below, merge, (*above, path.resolve())))
    return merge(merged, content) if merged else content


def _load(text: str, name: str) -> dict[str, Any]:
    try:
        content = yaml.load(text, Loader)
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        what = "" if isinstance(error, yaml.constructor.ConstructorError) else "this is no YAML: "
        raise UserError(f"{name}, line {line}: {what}{error.problem}.") from error
    except yaml.YAMLError as error:
        raise UserError(f"{name}: this is no YAML: {' '.join(str(error).split())}.") from error
    if content is None or content is EMPTY:
        if Path(name) == LOCAL:
            return {}
        raise UserError(f"{name}: the file holds no options.")
    if not isinstance(content, dict):
        raise UserError(f"{name}: expected options by their names (`trainer:`), got a {type(content).__name__}.")
    return content


def read_env_file(path: Path) -> None:
    """Put the lines NAME=value of a file into the environment, where NAME is not set yet.

    Args:
        path: May be missing. `export NAME=value`, quotes around the value and comments are fine.
    """
    if not path.is_file():
        return
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: this is no UTF-8 text ({error.reason}). Save it as UTF-8.") from error
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        value = r"(?:'([^']*)'|\"([^\"]*)\"|([^'\"\s#](?:.*?\S)??|))"
        found = re.fullmatch(rf"\s*(?:export\s+)?(\w+)\s*=\s*{value}\s*(?:(?<=\s)#.*)?", line)
        if not found:
            raise UserError(f"{path}, line {number}: expected NAME=value.")  # the line may hold a secret
        os.environ.setdefault(found[1], next(value for value in found.groups()[1:] if value is not None))
