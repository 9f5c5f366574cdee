"""Read YAML files as plain values, and write values as YAML; an error names the file and the line."""

import re
from collections.abc import Hashable
from pathlib import Path
from typing import Any

import yaml

from src.engine.errors import UserError

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
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: this is no UTF-8 text ({error.reason}). Save it as UTF-8.") from error
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}.") from error


def load(text: str, name: str) -> dict[str, Any]:
    """Return the options in a YAML text; a UserError names the file and the line of a mistake."""
    try:
        content = yaml.load(text, Loader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f", line {mark.line + 1}" if mark else ""
        problem = getattr(error, "problem", None) or " ".join(str(error).split())
        raise UserError(f"{name}{line}: this YAML cannot be read: {problem}.") from error
    if not isinstance(content, dict):
        raise UserError(f"{name}: expected options by their names (`trainer:`), got {content!r:.40}.")
    return content
