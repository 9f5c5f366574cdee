"""Before the first trial: the parser reads every bound and every choice, and says in its own words what is wrong."""

import contextlib
import difflib
import io
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml
from jsonargparse import get_loader

from src.cli import main
from src.tools.sweep.fragment import FILES, as_options, as_text, fragment
from src.tools.sweep.kept import CONFIG, configs, contents, is_file
from src.tools.sweep.space import Range, Space, all_names, probes, read_space, refuse, short_of_the_bound

# Options that a sweep gives to all trials, Plan.forced.
OWN = ("test_after_fit", "trainer.devices", "checkpoint.monitor", "checkpoint.mode")


def printed(options: list[str]) -> dict[str, Any]:
    """The config that a fit with these options would have; nothing is run.

    Raises:
        SystemExit: With the parser's line, if an option is wrong.
    """
    out, err = io.StringIO(), io.StringIO()
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            main(["fit", *options, "--print_config"])
    except SystemExit as stop:
        if stop.code not in (0, None):
            told = [line for line in err.getvalue().splitlines() if line.startswith("error: ")]
            raise SystemExit(stop.code if isinstance(stop.code, str) else (told or [err.getvalue()])[-1]) from None
    config: dict[str, Any] = get_loader("yaml")(out.getvalue())
    return config


def under_the_space(given: dict[str, Any], options: list[str]) -> list[str]:
    """Turn options that name a class into configs where the space searches an argument of that class.

    An option wins over every config, a trial's point included: `--model.net Mine` would drop `model.net.width`.

    Args:
        given: The space, as the YAML has it.
        options: What every trial is given.

    Returns:
        The options, those configs last, behind the user's own.

    Raises:
        SystemExit: With one line, if an option sets such an argument itself.
    """
    names = [name.replace(".init_args", "") for each in read_space(given) for name in all_names(each)]
    kept: list[str] = []
    below: list[str] = []
    for key, value, words in in_pairs(options):
        name = key.lstrip("-").removesuffix(".class_path").replace(".init_args", "")
        searched = [each.split(".") for each in names if each.startswith(f"{name}.")] if value else []
        tree = fragment({name: {"class_path": value} if isinstance(value, str) else value}) if searched else {}
        for path in searched:
            if _sets(tree, path):
                refuse(f"{'.'.join(path)} is in the space, and set by the option {key}, which would win. "
                       "Leave out one of them.")  # fmt: skip
        if searched:
            below += ["--config", as_text(tree)]
        else:
            kept += words
    return [*kept, *below]


def _sets(tree: Any, path: list[str]) -> bool:
    """Whether a fragment of a config says what an option is."""
    for part in path:
        tree = tree.get("init_args", tree) if isinstance(tree, dict) else {}
        if part not in tree:
            return False
        tree = tree[part]
    return True


def settle_space(given: dict[str, Any], options: list[str], config: dict[str, Any]) -> dict[str, Any]:
    """See that the parser takes the whole space.

    Args:
        given: The space, as the YAML has it.
        options: What every trial is given.
        config: The one that these make.

    Returns:
        The space, with bounds as fractions where they are whole numbers and the option takes fractions.

    Raises:
        SystemExit: With one line, if a name, a bound or a choice is wrong.
    """
    space = read_space(given)
    for each, asked in short_of_the_bound(space, given):
        at = each.distribution
        print(f"note: {each.name}: step {at.step} does not divide {at.low} to {asked}: the highest value is {at.high}.",
              file=sys.stderr)  # fmt: skip
    names = [name for each in space for name in all_names(each)]
    fixed = {word.lstrip("-").partition("=")[0].replace(".init_args", "") for word in options if word.startswith("--")}
    for name in names:
        top = name.removesuffix("+").split(".")[0]
        if top not in config and top != FILES:
            near = difflib.get_close_matches(
                name, [*config, *(f"{key}.{name.partition('.')[2]}" for key in config)], n=1
            )
            refuse(f"{name}: there is no such option." + (f" Did you mean {near[0]}?" if near else ""))
        if name.replace(".init_args", "") in OWN:
            refuse(f"{name}: a sweep sets it itself, to compare its trials. Leave it out of the space.")
        if name.replace(".init_args", "") in fixed - {FILES}:
            refuse(f"{name} is in the space, and given as an option, which would win. Leave out one of them.")
    over = as_configs(options)
    for point in probes(space):
        found = printed([*options, *as_options(point)])
        if over != options:
            _refuse_what_an_option_wins(point, found, over)
    return _with_fractions(given, space, options)


def _with_fractions(given: dict[str, Any], space: Space, options: list[str], above: Any = None) -> dict[str, Any]:
    """`{low: 0, high: 1}` of a rate means all between, of a width only whole numbers: the option decides."""
    settled = dict(given)
    for each in space:
        value = settled[each.name]
        if isinstance(each, Range):
            if (
                each.is_whole
                and "step" not in value
                and _takes(options, {**(above or {}), each.name: value["low"] + 0.5})
            ):
                settled[each.name] = value | {"low": float(value["low"]), "high": float(value["high"])}
        elif each.below:
            settled[each.name] = {
                choice: _with_fractions(value[choice], below, options, {**(above or {}), each.name: choice})
                for choice, below in each.below.items()
            } | {choice: None for choice in value if choice not in each.below}
            settled[each.name] = {choice: settled[each.name][choice] for choice in value}  # in their order
    return settled


def _takes(options: list[str], point: dict[str, Any]) -> bool:
    try:
        printed([*options, *as_options(point)])
    except SystemExit:
        return False
    return True


def as_configs(options: list[str]) -> list[str]:
    """The same options, as configs over which a later one wins."""
    pairs = in_pairs(options)
    return [
        each
        for key, value, _ in pairs
        for each in ([key, value] if key in CONFIG else as_options({key.lstrip("-"): value}))
    ]


def in_pairs(options: list[str]) -> Iterator[tuple[str, Any, list[str]]]:
    """Each option with its dashes, its value as YAML reads it, and its words; of --config the text."""
    rest = list(options)
    while rest:
        words = [rest.pop(0)]
        key, has_value, value = words[0].partition("=")
        if not has_value and rest and not rest[0].startswith("--"):
            words.append(rest.pop(0))
            value = words[1]
        read: Any = value
        if key not in CONFIG:
            with contextlib.suppress(yaml.YAMLError):  # then it is a text, such as --note "a: b: c"
                read = get_loader("yaml")(value)
        yield key, read, words


def _refuse_what_an_option_wins(point: dict[str, Any], found: dict[str, Any], over: list[str]) -> None:
    """End with one line if an option makes the same of all choices: `--data {init_args: {num: 8}}` and `data.num`."""
    own = as_options(point)
    try:
        meant = printed([*over, *own])
    except SystemExit:
        return  # an option that no file can say, such as one of an entry of a list
    trees = [fragment({name: value for name, value in point.items() if name != FILES})]
    for name in configs(own):
        trees += (
            [tree for _, _, tree in contents(Path(name).expanduser())] if is_file(name) else [get_loader("yaml")(name)]
        )
    for leaf in dict.fromkeys(leaf for tree in trees for leaf in _leaves(tree)):
        given, value = _at(found, leaf), _at(meant, leaf)
        if isinstance(given, list) and isinstance(value, list):
            given = given[: len(value)]  # an option may add to a list
        if leaf[0] != FILES and given != value:
            name = ".".join(str(part) for part in leaf if part != "init_args")
            refuse(f"{name} is in the space ({value}), and set by an option ({given}), which would win. "
                   "Leave out one of them.")  # fmt: skip


def _leaves(tree: dict[str, Any]) -> Iterator[tuple[str, ...]]:
    for key, value in tree.items():
        if isinstance(value, dict) and value:
            yield from ((key, *rest) for rest in _leaves(value))
        elif not str(key).endswith("+"):  # which adds to what an option sets
            yield (key,)


def _at(config: Any, leaf: tuple[str, ...]) -> Any:
    """An option's value in a whole config; of a class its name."""
    for part in leaf:
        if part != "init_args" and isinstance(config, dict):
            below = config if part in config else config.get("init_args") or {}
            config = below.get(part)
    return config.get("class_path", config) if isinstance(config, dict) else config
