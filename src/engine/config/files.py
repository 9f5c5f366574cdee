"""Read YAML files and `.env` as plain values, and write values as YAML; a mistake names its file and line."""

import os
import re
from collections.abc import Hashable
from pathlib import Path
from typing import Any

import yaml

from src.engine.errors import UserError

# What this machine wants of every run; any --config wins over it.
LOCAL = Path("local.yaml")
# The value of `trainer:` with nothing below it.
EMPTY = object()
# What YAML 1.2, the parser and OmegaConf take for a number with a fraction: PyYAML would leave such texts bare.
FLOAT = re.compile(
    r"^(?:[-+]?(?:[0-9][0-9_]*)\.[0-9_]*(?:[eE][-+]?[0-9]+)?|[-+]?(?:[0-9][0-9_]*)(?:[eE][-+]?[0-9]+)"
    r"|[-+]?\.[0-9][0-9_]*(?:[eE][-+]?[0-9]+)?|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))$"
)


class Dumper(yaml.SafeDumper):
    """Puts a text that any reader would take for a number between quotes."""


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


for each in (Dumper, Loader):
    each.add_implicit_resolver("tag:yaml.org,2002:float", FLOAT, list("-+0123456789."))
Loader.add_constructor("tag:yaml.org,2002:null", Loader.construct_nothing)


def as_yaml(config: Any) -> str:
    """Return YAML that any reader takes for the same plain values."""
    return yaml.dump(config, Dumper=Dumper, sort_keys=False, allow_unicode=True, width=1000)


def read_text(path: Path) -> str:
    """Read a file; a UserError says why it cannot be read."""
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: this is no UTF-8 text ({error.reason}). Save it as UTF-8.") from error
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}.") from error


def load(text: str, name: str) -> dict[str, Any]:
    """Return the options in a YAML text; a UserError names the file and the line of a mistake."""
    try:
        content = yaml.load(text, Loader)
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        what = "" if isinstance(error, yaml.constructor.ConstructorError) else "this is no YAML: "
        raise UserError(f"{name}, line {line}: {what}{error.problem}.") from error
    except yaml.YAMLError as error:
        raise UserError(f"{name}: this is no YAML: {' '.join(str(error).split())}.") from error
    if content in (None, EMPTY):
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
    for number, line in enumerate(read_text(path).splitlines() if path.is_file() else [], start=1):
        value = r"(?:'([^']*)'|\"([^\"]*)\"|([^'\"\s#](?:.*?\S)??|))"
        found = re.fullmatch(rf"\s*(?:export\s+)?(\w+)\s*=\s*{value}\s*(?:(?<=\s)#.*)?", line)
        if found:
            os.environ.setdefault(found[1], next(value for value in found.groups()[1:] if value is not None))
        elif line.split("#")[0].strip():
            raise UserError(f"{path}, line {number}: expected NAME=value.")  # the line may hold a secret
