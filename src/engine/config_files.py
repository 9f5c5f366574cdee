"""The files that a command reads before it parses: `.env`, `local.yaml` and those of --config."""

import os
import re
from collections.abc import Iterable
from pathlib import Path

import yaml

from src.engine.errors import UserError

# What this machine wants of every run; any --config wins over it.
LOCAL = Path("local.yaml")


def check(names: Iterable[str]) -> None:
    """See that files are YAML with options in them, before their values are looked at.

    Args:
        names: What --config was given, and `local.yaml`; a text that is no file is left to the parser.

    Raises:
        UserError: Names the file, and the line where there is one.
    """
    for path in (Path(name) for name in names if Path(name).is_file()):
        try:
            content = yaml.safe_load(path.read_text(encoding="utf-8"))
        except UnicodeDecodeError as error:
            raise UserError(f"{path}: this is no UTF-8 text ({error.reason}). Save it as UTF-8.") from error
        except yaml.MarkedYAMLError as error:
            line = error.problem_mark.line + 1 if error.problem_mark else 1
            raise UserError(f"{path}, line {line}: this is no YAML: {error.problem}") from error
        if not isinstance(content, dict | None):
            raise UserError(f"{path}: expected options by their names (`trainer:`), got a {type(content).__name__}.")
        if content is None and path != LOCAL:
            raise UserError(f"{path}: the file holds no options.")


def read_env_file(path: Path) -> None:
    """Put the lines NAME=value of a file into the environment, where NAME is not set yet.

    Args:
        path: May be missing. `export NAME=value`, quotes around the value and comment lines are fine.
    """
    if not path.is_file():
        return
    for number, line in enumerate(path.read_text().splitlines(), start=1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        found = re.fullmatch(r"\s*(?:export\s+)?(\w+)\s*=\s*(?:'(.*)'|\"(.*)\"|(.*?))\s*", line)
        if not found:
            raise UserError(f"{path}, line {number}: expected NAME=value.")  # the line may hold a secret
        os.environ.setdefault(found[1], next(value for value in found.groups()[1:] if value is not None))
