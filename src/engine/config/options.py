"""What the command line says of the config that the parser cannot: null at any depth, references, another class."""

from collections.abc import Iterator
from typing import Any

import yaml

from src.engine.config.files import Loader
from src.engine.config.merge import (
    CLASSES,
    Merge,
    append,
    as_class,
    by_name,
    find_class,
    goes_on,
    is_class,
    names_class,
    settled,
)
from src.engine.config.text import refers
from src.engine.errors import UserError

NULL = ("null", "~")


def take_options(config: dict[str, Any], arguments: list[str], merge: Merge) -> list[str]:
    """Put into the config, in place, what has to be there before the parser reads both.

    Args:
        config: What the files say.
        arguments: The options behind the verb.
        merge: Knows the rule, and notes what a class loses that another takes the place of.

    Returns:
        The options that are left for the parser, without those of --config.
    """
    left: list[tuple[str, list[str]]] = []
    for name, value, words in options(arguments):
        if name in ("config", "c", "ckpt_path"):
            continue
        inner = with_null(value)
        if value in NULL or inner:
            left = take_classes(config, left, name)
        place = find(config, name.removesuffix(".class_path")) if value is not None else None
        if inner and (not place or "+" in name):
            # The parser would hand on the text "None".
            raise UserError(
                f"--{name} {value}: null within a list or dict cannot be an option. Write it in a YAML file."
            )
        if place and (value in NULL or refers(value) or inner):
            holder, key, at, plain = place
            if inner:
                holder[key] = inner
            else:
                merge.put(holder, key, None if value in NULL else value, at, plain)
            left = [each for each in left if each[0] != name and not each[0].startswith((f"{name}.", f"{name}+"))]
            continue
        if place:
            change_class(place, str(value), merge)
        left.append((name, words))
    return [word for _, words in left for word in words]


def with_null(text: str | None) -> Any:
    """The list or dict that an option's value is, if there is null among its parts or keys; else None."""
    try:
        value = settled(yaml.load(text, Loader)) if text and text[0] in "[{" else None
    except yaml.YAMLError:  # the parser will complain
        return None
    return value if has_null(value) else None


def has_null(value: Any) -> bool:
    """Whether a list or dict holds null, at any depth."""
    parts = [*value, *value.values()] if isinstance(value, dict) else value if isinstance(value, list) else []
    return any(part is None or has_null(part) for part in parts)


def options(arguments: list[str]) -> Iterator[tuple[str, str | None, list[str]]]:
    """Each option: its name without dashes, its value if it has one, and its words."""
    rest = list(arguments)
    while rest:
        word = rest.pop(0)
        name, has_value, value = word.partition("=")
        if not name.startswith("-"):
            yield "", None, [word]
        elif has_value or not rest or rest[0].startswith("--"):
            yield name.lstrip("-"), value if has_value else None, [word]
        else:
            yield name.lstrip("-"), rest[0], [word, rest.pop(0)]


def take_classes(config: dict[str, Any], left: list[tuple[str, list[str]]], name: str) -> list[tuple[str, list[str]]]:
    """Put into the config the classes named on the command line of which an option below is null.

    Args:
        config: What the files say; changed in place.
        left: The options so far.
        name: Of the one that is null.

    Returns:
        The options without those.
    """
    kept = []
    for option, words in left:
        above, value = option.removesuffix(".class_path").removesuffix("+"), words[-1].partition("=")[2] or words[-1]
        place = find(config, above) if name.startswith(f"{above}.") and names_class(value) else None
        if not place:
            kept.append((option, words))
            continue
        holder, key, _, _ = place
        if option.endswith("+"):
            append(holder, f"{key}+", {"class_path": value})
        else:
            was = holder.get(key)
            holder[key] = (was if isinstance(was, dict) and is_class(was) else {}) | {"class_path": value}
    return kept


def find(config: dict[str, Any], name: str) -> tuple[dict[str, Any], str, str, bool] | None:
    """Where the value of an option stands in a config.

    Args:
        config: As the files give it.
        name: Without `init_args`: `model.net.hidden`; of a list its last element is meant.

    Returns:
        The dict that holds it, its key there, its full name, and whether the dict is one of the user's with entries
        that can be deleted; None where the files do not reach so far.
    """
    holder, plain, at = config, False, ""
    *path, key = [part for part in name.split(".") if part != "init_args"]
    for depth, part in enumerate(path):
        part = part if part in holder else f"{part}+" if f"{part}+" in holder else part
        value = holder.get(part)
        value = value[-1] if isinstance(value, list) and value else value
        if isinstance(value, str) and names_class(value):
            value = holder[part] = {"class_path": value}
        if value is None and depth == 0 and part not in CLASSES:
            value = holder[part] = {}
        if not isinstance(value, dict):
            return None
        holder, at, plain = value, f"{at}.{part}".strip(".+"), depth > 0 and not is_class(value)
        if is_class(value):
            holder = value["init_args"] = value.get("init_args") or {}
    return holder, key, f"{at}.{key}".strip("."), plain


def change_class(place: tuple[dict[str, Any], str, str, bool], value: str, merge: Merge) -> None:
    """Where an option names another class than the files, take away what they gave to theirs."""
    holder, key, at, _ = place
    was = holder.get(key)
    if not isinstance(was, dict) or "class_path" not in was or not names_class(value):
        return
    if find_class(value) is not None and not goes_on(was["class_path"], value):
        merge.tell_dropped(at, was, {"class_path": value})
        holder[key] = by_name(value)


def with_references(full: Any, given: Any, given_by_option: set[str], at: str = "") -> Any:
    """The values of a run, with a reference again where the files and options had one.

    Args:
        full: Every value, as the parser found it.
        given: What the files and options said.
        given_by_option: Names of what the parser took from the command line.
        at: The option that both are the value of.
    """
    if isinstance(given, str):
        overridden = any(at == name or at.startswith(f"{name}.") for name in given_by_option)
        return given if refers(given) and not overridden else full
    if isinstance(full, list) and isinstance(given, list):
        rest = given + [None] * (len(full) - len(given))
        return [with_references(a, b, given_by_option, at) for a, b in zip(full, rest, strict=False)]
    if not isinstance(full, dict) or not isinstance(given, dict):
        return full
    given = as_class(given) if is_class(full) else given
    below = {key: at if key == "init_args" else f"{at}.{key}".strip(".") for key in full}
    return {
        key: with_references(value, given.get(key, given.get(f"{key}+")), given_by_option, below[key])
        for key, value in full.items()
    }
