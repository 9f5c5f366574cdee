"""Before the first trial: the parser reads every bound and every choice, and says in its own words what is wrong."""

import contextlib
import difflib
import io
from typing import Any

from jsonargparse import get_loader

from src.cli import main
from src.tools.sweep.fragment import FILES, as_options
from src.tools.sweep.space import Range, Space, all_names, probes, read_space, refuse


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
    names = [name for each in space for name in all_names(each)]
    fixed = {word.lstrip("-").partition("=")[0].replace(".init_args", "") for word in options if word.startswith("--")}
    for name in names:
        top = name.removesuffix("+").split(".")[0]
        if top not in config and top != FILES:
            near = difflib.get_close_matches(
                name, [*config, *(f"{key}.{name.partition('.')[2]}" for key in config)], n=1
            )
            refuse(f"{name}: there is no such option." + (f" Did you mean {near[0]}?" if near else ""))
        if name.replace(".init_args", "") in fixed - {FILES}:
            refuse(f"{name} is in the space, and given as an option, which would win. Leave out one of them.")
    for point in probes(space):
        printed([*options, *as_options(point)])
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
