"""The options of a run by flat names, as its files have them: `model.optimizer.lr`."""

import re
from pathlib import Path
from typing import Any

import yaml

from src.tools.runs.read import why
from src.tools.runs.table import cut


def load_yaml(path: Path) -> Any:
    """What a file says, read by the quick loader where PyYAML has it.

    Raises:
        ValueError: If it is no YAML.
    """
    try:
        return yaml.load(path.read_text(encoding="utf-8"), getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    except yaml.YAMLError as error:
        raise ValueError(f"{path.name} is no YAML: {error}") from error


def read_options(folder: Path) -> dict[str, Any]:
    """Every option that a run has, also one that was changed when it went on; none where there is no config.

    Raises:
        ValueError: If a file is no YAML.
    """
    path = folder / "config.yaml"
    options = flat(load_yaml(path)) if path.exists() else {}
    record = folder / "record.yaml"
    for entry in load_yaml(record) if record.exists() else []:
        for name, value in entry.get("changed", {}).items():
            name = short(name)
            options = {key: old for key, old in options.items() if key != name and not key.startswith(f"{name}.")}
            options |= flat(value, name)
    return options


def flat(node: Any, name: str = "") -> dict[str, Any]:
    """The leaves of a config, named as on a command line; in a list a class stands by its name."""
    above = f"{name}." if name else ""
    if isinstance(node, dict) and "class_path" in node:
        leaves = {name: node["class_path"]} if name else {}
        for key, value in {**node, **(node.get("init_args") or {}), **(node.get("dict_kwargs") or {})}.items():
            if key not in ("class_path", "init_args", "dict_kwargs"):
                leaves |= flat(value, above + str(key))
        return leaves
    if isinstance(node, dict) and node:
        return {key: value for part, each in node.items() for key, value in flat(each, f"{above}{part}").items()}
    if isinstance(node, list) and any(isinstance(each, dict) for each in node):
        leaves = {}
        for number, each in enumerate(node):
            kind = str(each.get("class_path", number)).rpartition(".")[2] if isinstance(each, dict) else str(number)
            while f"{above}{kind}" in leaves:
                kind += "'"
            leaves |= flat(each, f"{above}{kind}")
        return leaves
    return {name: node}


def short(name: str) -> str:
    """`model.optimizer.lr` of `model.init_args.optimizer.init_args.lr`."""
    return re.sub(r"\.(init_args|dict_kwargs|class_path)(?=\.|$)", "", name)


def as_text(value: Any) -> str:
    """An option in a line, as YAML has it: null, true; of a long list the beginning."""
    text = "null" if value is None else str(value).lower() if isinstance(value, bool) else " ".join(str(value).split())
    return cut(text, 500)


def add_options(row: dict[str, Any], folder: Path) -> dict[str, Any]:
    """A run's row with its options as columns; one whose config cannot be read is broken.

    Args:
        row: The run's, as it was read.
        folder: Where it lies.
    """
    try:
        return read_options(folder) | row
    except Exception as error:  # whatever stands there
        return row | {"state": "broken", "reason": why(error)}
