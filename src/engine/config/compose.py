"""One config out of everything that a command was given, in the order in which the later wins."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from src.engine.config.files import read_config, read_local
from src.engine.config.merge import Merge
from src.engine.config.options import options, take_options, with_references
from src.engine.config.text import as_yaml, escaped, refer_to


@dataclass
class Given:
    """What a command was given.

    Attributes:
        verb: `fit`, for example.
        config: What the files say, `local.yaml` first, then the checkpoint, then each --config; with those options that
            the parser cannot put in its place.
        options: The other options.
        notes: What was left out, a line each.
    """

    verb: str
    config: dict[str, Any]
    options: list[str]
    notes: list[str]

    def arguments(self) -> list[str]:
        """For the parser: one config, and the options that win over it."""
        config = ["--config", as_yaml(refer_to(self.verb, self.config))] if self.config else []
        return [self.verb, *config, *(refer_to(self.verb, word) for word in self.options)]

    def carried(self, values: dict[str, Any]) -> dict[str, Any]:
        """What a run carries: the value of each option, and a reference where one was given.

        Args:
            values: Every option as plain values, as the parser found them.
        """
        names = {name.removesuffix("+").replace(".init_args", "") for name, _, _ in options(self.options)}
        merged: dict[str, Any] = with_references(escaped(values), self.config, names)
        return merged


def compose(
    verb: str, files: Iterable[str], checkpoint: dict[str, Any], arguments: list[str], sections: set[str]
) -> Given:
    """Read the files and put them together.

    Args:
        verb: `fit`, for example.
        files: What --config was given.
        checkpoint: The config of the checkpoint that the run begins with, or an empty dict.
        arguments: What stands behind the verb.
        sections: Names of the options that have others below them.
    """
    merge = Merge(sections)
    config = merge(merge({}, read_local(merge)), checkpoint)
    for name in files:
        config = merge(config, read_config(name, merge))
    left = take_options(config, arguments, merge)
    return Given(verb, config, left, merge.notes)
