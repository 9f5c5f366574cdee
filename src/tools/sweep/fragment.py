"""A point of the space as a fragment of a config: what a trial is given, and what `best.yaml` says."""

import copy
import os
import re
from pathlib import Path
from typing import Any

import yaml

FILES = "config"  # choices of this name are files, or dicts with options


class Dumper(yaml.SafeDumper):
    """Quotes a text that a reader of YAML 1.2 would take for a number, such as `1e3`."""

    def represent_text(self, text: str) -> yaml.Node:
        return self.represent_scalar("tag:yaml.org,2002:str", text, style="'" if re.match(r"[-+.\d]", text) else None)


Dumper.add_representer(str, Dumper.represent_text)


def fragment(values: dict[str, Any]) -> dict[str, Any]:
    """Options by their names as a config.

    Args:
        values: Of each option its value; `config` stands for a file, a list of files or a dict with options.

    Returns:
        The config; under `config` the files that it builds on.
    """
    given = values.get(FILES)
    tree: dict[str, Any] = copy.deepcopy(given) if isinstance(given, dict) else {}
    if given is not None and not isinstance(given, dict):
        tree[FILES] = list(given) if isinstance(given, list) else [given]
    # A class first, then what it is given.
    for name in sorted((name for name in values if name != FILES), key=lambda name: name.count(".")):
        put(tree, [part for part in name.split(".") if part not in ("init_args", "class_path")], values[name])
    return tree


def put(tree: dict[str, Any], path: list[str], value: Any) -> None:
    """Set one option in a config, in place; of a class it is an argument."""
    *above, last = path
    for part in above:
        child = tree.get(part)
        child = {"class_path": child} if isinstance(child, str) else child if isinstance(child, dict) else {}
        tree[part] = child
        tree = child.setdefault("init_args", {}) if "class_path" in child else child
    tree[last] = copy.deepcopy(value)


def as_options(values: dict[str, Any]) -> list[str]:
    """The words of the command line that give a trial its point."""
    tree = fragment(values)
    files = tree.pop(FILES, [])
    words = [word for file in files for word in ("--config", str(file))]
    return [*words, "--config", as_text(tree)] if tree else words


def as_text(tree: dict[str, Any]) -> str:
    """A config in one line, for `--config`."""
    return yaml.dump(tree, Dumper=Dumper, width=1_000_000, default_flow_style=True).strip()


def as_file(values: dict[str, Any], folder: Path, copies: dict[str, str]) -> str:
    """The text of a file for `--config`.

    Args:
        values: Of each option its value.
        folder: Where the file will lie: files that it builds on are named from there.
        copies: Of such a file, as it was named, the copy that the trials read.
    """
    tree = fragment(values)
    if files := tree.pop(FILES, None):
        tree = {FILES: [os.path.relpath(Path(copies.get(file, file)).expanduser(), folder) for file in files]} | tree
    return yaml.dump(tree, Dumper=Dumper, sort_keys=False, allow_unicode=True, width=120)
