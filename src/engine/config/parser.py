"""The parser: `${...}` between values, the file `.env`, and a help that can be read."""

import argparse
import inspect
import re
import sys
import warnings
from pathlib import Path
from typing import Any, NoReturn

import yaml
from jsonargparse import Namespace, get_loader, set_dumper, set_loader
from lightning.pytorch.cli import LightningArgumentParser
from torch.optim import Optimizer
from torch.optim.lr_scheduler import CosineAnnealingLR, LRScheduler

from src.engine.config import yaml_types  # noqa: F401, tensors can be written in YAML
from src.engine.config.complaint import Complaint
from src.engine.config.suggestions import explain
from src.engine.config.text import as_yaml, in_texts, texts_in

# What the parser writes for a value without an import path.
UNWRITABLE = "Unable to serialize instance "
PROGRAM = "python -m src"
VERBS = {
    "fit": "Train a net; go on with a run (--ckpt_path runs/<name>/version_0).",
    "validate": "Compute the metrics on the validation data.",
    "test": "Compute the metrics on the test data (--ckpt_path runs/<name>/version_0 is enough).",
    "predict": "Score new data, print a table and write predictions.csv.",
}
DESCRIPTION = (
    "Train and use a net that a YAML file describes: its net, loss, metrics, optimizer, data and trainer. "
    "Begin with: python -m src fit --config configs/<name>.yaml. Of several --config files the later one wins; "
    "local.yaml and .env of the current folder are read first."
)
CKPT_PATH = "A checkpoint of a run, or the run's folder, which stands for its last.ckpt."


class Parser(LightningArgumentParser):
    """Stops at the first and innermost complaint, before those that contain it.

    Resolves `${...}` when all files and options are put together, so that a reference sees the value that won.
    """

    def __init__(self, *args: Any, programs: dict[str, str] | None = None, **kwargs: Any) -> None:
        own = {"prog": PROGRAM, "description": DESCRIPTION, "parser_mode": "omegaconf+"}
        # A mistyped option is a mistake, not the beginning of another.
        super().__init__(*args, **own | {"allow_abbrev": False} | kwargs)
        self.verbs: list[LightningArgumentParser] = []
        self._kind: Any = None
        self.programs = programs or {}

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        raise Complaint(message, self._kind, self.get_defaults().keys)

    def add_class_arguments(self, theclass: Any, nested_key: str | None = None, **kwargs: Any) -> Any:
        if nested_key is None:
            self._kind = theclass if inspect.isclass(theclass) else None
        if nested_key is None and inspect.isclass(theclass) and issubclass(theclass, CosineAnnealingLR):
            # Required by torch, and then never null; null is the length of the run.
            kwargs["skip"] = {*kwargs.get("skip", ()), "T_max"}
            self.add_argument("--T_max", type=int | None, default=None)
        return super().add_class_arguments(theclass, nested_key, **kwargs)

    def add_function_arguments(self, function: Any, nested_key: str | None = None, **kwargs: Any) -> Any:  # type: ignore[override]
        made = getattr(function, "__annotations__", {}).get("return")
        is_called_later = isinstance(made, type) and issubclass(made, Optimizer | LRScheduler)
        if nested_key is None and is_called_later:
            path = f"{function.__module__}.{function.__name__}"
            self.error(f"{path} is a function, which takes no options here. Name it alone: {path}")
        self._kind = function if inspect.isroutine(function) else None
        return super().add_function_arguments(function, nested_key, **kwargs)

    def add_method_arguments(self, theclass: Any, themethod: str, *args: Any, **kwargs: Any) -> Any:
        """Lightning's own, without what a checkpoint of ours needs not or cannot."""
        skip = {*kwargs.pop("skip", ()), "ckpt_path", "weights_only"}
        added = super().add_method_arguments(theclass, themethod, *args, skip=skip, **kwargs)
        self.add_argument("--ckpt_path", type=str | Path | None, default=None, help=CKPT_PATH)
        return [*added, "ckpt_path", "weights_only"]

    def parse_args(self, *args: Any, **kwargs: Any) -> Namespace:  # type: ignore[override]
        try:
            return super().parse_args(*args, **kwargs)
        except ValueError as error:
            if not type(error).__module__.startswith("omegaconf."):
                raise
            where = re.search(r"full_key: \w+\.(.*)", str(error))
            what = re.sub(r"key '\w+\.", "key '", str(error).splitlines()[0])
            self.error(f"{where[1] if where else 'config'}: {what}")

    def parse_or_explain(self, arguments: list[str]) -> Namespace:
        """Parse a command line; a mistake ends the process with one line that names the nearest right word."""
        try:
            return self.parse_args(arguments)
        except Complaint as complaint:
            options = [option for each in (self, *self.verbs) for option in each.get_defaults().keys()]  # noqa: SIM118
            sys.stderr.write(f"error: {explain(complaint, options, arguments)}\n")
            sys.exit(2)

    def dump(self, namespace: Namespace, *args: Any, **kwargs: Any) -> str:
        """Leave out what text cannot hold: no file gave it, it is the default of a class, and will be so again."""
        kept, defaults = namespace.clone(), self.get_defaults()
        for name, value in vars(namespace).items():
            if not is_plain(value) and (repr(value) == repr(defaults.get(name)) or not self._can_write(name, value)):
                del kept[name]
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=f"\\s*{UNWRITABLE}")
            text = str(super().dump(kept, *args, **kwargs))
        if UNWRITABLE not in text:
            return text
        # Where a function may stand as well as a text, the parser looks for the import path of the text.
        written = {UNWRITABLE + own: own for own in texts_in(kept)}
        return as_yaml(in_texts(lambda each: written.get(each, each), yaml.safe_load(text)))

    def _can_write(self, name: str, value: Any) -> bool:
        try:
            alone = Namespace({name: value})  # type: ignore[no-untyped-call]
            return UNWRITABLE not in super().dump(alone, skip_validation=True)
        except Exception:  # a serializer may stumble over foreign objects in any way
            return False

    def add_subcommands(self, *args: Any, **kwargs: Any) -> Any:
        verbs: Any = super().add_subcommands(*args, **kwargs)
        add = verbs.add_subcommand

        def add_subcommand(name: str, parser: LightningArgumentParser, **rest: Any) -> Any:
            self.verbs.append(parser)
            # Lightning would take the help from the docstrings of its trainer.
            return add(name, parser, **rest | {"help": VERBS[name]})

        verbs.add_subcommand = add_subcommand
        return verbs

    def format_help(self, *args: Any) -> str:
        """Leave out the long lists of classes that Python knows: of nets alone there are hundreds; add the programs."""
        text = re.sub(r",\s+known\s+subclasses:((?:[^,)]*,){10}[^)]*)\)", ")", super().format_help(*args))
        return text + "".join(f"    {name:<20}{what}\n" for name, what in self.programs.items())


def is_plain(value: Any) -> bool:
    """Whether YAML has a word for a value; what makes objects is looked at by the parser of its class."""
    if isinstance(value, list | tuple):
        return all(is_plain(part) for part in value)
    if isinstance(value, dict):
        return all(is_plain(part) for part in value.values())
    return isinstance(value, Namespace) or type(value) in (type(None), bool, int, float, str)


def read_text(text: str) -> Any:
    """The value of an option, or a config, by YAML: `[1, 2]` is a list. Of an anchor or a comment alone, the text."""
    value = get_loader("yaml")(text)
    return text if value is None and text.strip().lower() not in ("", "null", "~") else value


set_loader("omegaconf+", read_text, (yaml.YAMLError,))
set_dumper("yaml", as_yaml)


def look_ahead(arguments: list[str]) -> argparse.Namespace:
    """What has to be known before the command line is parsed: `verb`, `ckpt_path` and the list `config`, or None."""
    early = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    early.add_argument("verb", nargs="?")
    early.add_argument("--ckpt_path")
    early.add_argument("-c", "--config", action="append")
    return early.parse_known_args(arguments)[0]


def verb_options(verb: str) -> dict[str, Any]:
    """What the parser of a verb is made with."""
    return {"description": VERBS[verb], "usage": f"{PROGRAM} {verb} [options]"}
