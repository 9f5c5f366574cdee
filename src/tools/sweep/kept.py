"""The YAML files of a sweep, copied into its folder when it begins: its trials read these, whatever is edited since."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import yaml
from jsonargparse import get_loader

from src.tools.sweep.folder import Sweep, replace
from src.tools.sweep.fragment import FILES, as_options
from src.tools.sweep.space import Space

CONFIG = ("--config", "-c")
KEPT, NAMES = "given", "names.yaml"  # the folder; of each file as it was named its copy


def with_others(words: list[str], other: Callable[[str], str]) -> list[str]:
    """The words of a command line, with another value of each --config."""
    found: list[str] = []
    for word in words:
        key, has_value, value = word.partition("=")
        if found and found[-1] in CONFIG:
            found.append(other(word))
        else:
            found.append(f"{key}={other(value)}" if key in CONFIG and has_value else word)
    return found


def configs(words: list[str]) -> list[str]:
    """What each --config is given."""
    found: list[str] = []
    with_others(words, lambda name: found.append(name) or name)  # type: ignore[func-returns-value]
    return found


def is_file(name: str) -> bool:
    """Whether --config is given a file, not options as text."""
    return "\n" not in name and not name.lstrip().startswith("{")


def contents(path: Path) -> Iterator[tuple[Path, str, dict[str, Any]]]:
    """A file and those that its key `config` names: where it is, its text and its options."""
    path = path.parent.resolve() / path.name
    text = path.read_text(encoding="utf-8-sig")
    options = get_loader("yaml")(text)
    options = options if isinstance(options, dict) else {}
    yield path, text, options
    bases = options.get(FILES) or []
    for base in bases if isinstance(bases, list) else [bases]:
        yield from contents(path.parent / Path(str(base)).expanduser())


def keep(sweep: Sweep) -> None:
    """Copy the files of the options and of the space."""
    names, texts = _read(sweep)
    for place, text in texts.items():
        path = sweep.folder / KEPT / place
        path.parent.mkdir(parents=True, exist_ok=True)
        replace(path, text)
    if names:
        replace(sweep.folder / KEPT / NAMES, yaml.safe_dump(names, allow_unicode=True))


def edited(sweep: Sweep) -> list[str]:
    """The files that are not as they were when the sweep began."""
    if not (sweep.folder / KEPT / NAMES).is_file():
        return []
    copies = [(place, text, sweep.folder / KEPT / place) for place, text in _read(sweep)[1].items()]
    return [place for place, text, path in copies if not path.is_file() or path.read_text(encoding="utf-8") != text]


def kept(folder: Path) -> dict[str, str]:
    """Of each file, as it was named, its copy.

    Args:
        folder: The sweep's.
    """
    file = folder / KEPT / NAMES
    found = yaml.safe_load(file.read_text(encoding="utf-8")) if file.is_file() else {}
    return {name: str(folder / KEPT / place) for name, place in found.items()}


def _read(sweep: Sweep) -> tuple[dict[str, str], dict[str, str]]:
    """Of each file, as it was named, the place of its copy; of each place the text.

    The copies lie to each other as the files do, so that one finds those that it builds on. A file that another names
    by its full path is read there.
    """
    words = [*sweep.plan.options, *(word for value in _choices(sweep.plan.read) for word in as_options({FILES: value}))]
    files = {name: list(contents(Path(name).expanduser())) for name in configs(words) if is_file(name)}
    if not files:
        return {}, {}
    root = os.path.commonpath([path.parent for each in files.values() for path, _, _ in each])
    names = {name: os.path.relpath(each[0][0], root) for name, each in files.items()}
    return names, {os.path.relpath(path, root): text for each in files.values() for path, text, _ in each}


def _choices(space: Space) -> Iterator[Any]:
    for each in space:
        if each.name == FILES:
            yield from getattr(each, "values", {}).values()
        for below in getattr(each, "below", {}).values():
            yield from _choices(below)
