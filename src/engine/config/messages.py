"""Shorten the parser's messages to one line: the option's full name, what came, what is allowed, the nearest name.

jsonargparse nests: `Parser key "model"` holds `Problem with given class_path 'LitModule'`, which holds `Parser key
"net"`. The first chain of ever deeper lines is the option's path; the text below it is the problem.
"""

import difflib
import importlib
import inspect
import pkgutil
import re
from collections.abc import Iterable
from pydoc import locate
from typing import Any

# Modules of the classes that an option takes by name alone.
PLACES = {
    **dict.fromkeys(("net", "loss", "activation"), ("torch.nn",)),
    "optimizer": ("torch.optim",),
    "scheduler": ("torch.optim.lr_scheduler",),
    "metrics": ("torchmetrics.classification", "torchmetrics"),
    "callbacks": ("lightning.pytorch.callbacks",),
    "logger": ("lightning.pytorch.loggers",),
    "profiler": ("lightning.pytorch.profilers",),
}
# Options that newcomers look for without their section.
ELSEWHERE = {"lr": "model.optimizer.lr", "epochs": "trainer.max_epochs", "batch_size": "data.batch_size"}
FRAME = re.compile(r"Parser key \"(.+?)\"|given class_path '(.+?)'|expects a (function)")
UNKNOWN = re.compile(r"(?:Group '(\w+)' does not accept o|O)ption '(\S+)'|unrecognized arguments: ([^\s=]+)")
WRONG_CLASS = re.compile(
    r"Multiple subclasses .*|(?:Import path|Expected) .* a subclass of [^.\n]*"
    r"|(?:module '([\w.]+)' has no attribute|No module named|Expected a dot import path string:) '?([\w.]+)'?"
)
WRONG_VALUE = re.compile(
    r"(?:Subtypes: \[(.*?)\]\n.*?\n\s*Given value|Expected an? (.*?)\. Got value): (.*?)(?:\. Got value|\n)", re.DOTALL
)


def explain(message: str, options: list[str]) -> str:
    """Shorten a parser's message to one line and add the nearest valid name.

    Args:
        message: Text of jsonargparse's error, up to 15 lines for a wrong value of a union.
        options: Names of all options of the command line, without dashes.
    """
    if found := re.search(r"Parser key \"(.+?)\":\s*Unable to load config '(.+?)'", message):
        below = ", ".join(f"--{name}" for name in options if name.startswith(f"{found[1]}."))
        return f"{found[1]}: got {found[2]!r}; it has options of its own: {below}"
    option, kind, problem = _deepest(message)
    if found := re.search(r"arguments are required: (.*?)(?:\. Got value|\n)", problem):
        if not kind or (option == "model" and found[1].startswith("net")):
            return f"{found[1]} required: name an experiment, --config configs/NAME.yaml, or a run, --ckpt_path FOLDER"
        flags = " ".join(f"--{option}.{name} VALUE" for name in found[1].split(", "))
        return f"{kind.rpartition('.')[2]} needs {found[1]}. Give {flags}"
    if found := UNKNOWN.search(problem):
        name = ".".join(part for part in (option, *found.groups()) if part)
        said = f"{name}: this option is not accepted"
        if option:
            cls: Any = locate(kind)
            arguments = list(inspect.signature(cls).parameters) if inspect.isclass(cls) else []
            if not arguments:
                return f"{said}. Name the class first: --{option} CLASS"
            near = nearest(found[2].partition(".")[0], arguments) or f". It takes {', '.join(arguments)}."
            if name.endswith("scheduler.monitor"):
                near = ". Did you mean the class lightning.pytorch.cli.ReduceLROnPlateau?"
            return f"{said} by {cls.__name__}{near}"
        plain = [each.replace(".init_args", "") for each in options]
        known = {each.rpartition(".")[2]: each for each in plain} | {each: each for each in plain} | ELSEWHERE
        known |= {name: f"config {name}"} if name.endswith((".yaml", ".yml")) else {}
        near = nearest(name.replace("-", "_"), known) or nearest(name.partition(".")[0], known)
        return said + (near.replace("mean ", "mean --") if found[3] else near)
    return f"{option}: {_wrong_value(option, problem)}".removeprefix(": ")


def _deepest(message: str) -> tuple[str, str, str]:
    """Return the full name of the option, the class whose argument it is, and the text of the problem."""
    path, kind, depth, text = [], "", -1, []
    for line in message.splitlines():
        indent = len(line) - len(line.lstrip())
        if line.strip() and indent <= depth:  # another type of a union, which was tried as well
            break
        text.append(line)
        for found in FRAME.finditer(line):
            path += [found[1]] if found[1] else []
            kind, depth, text = found[2] or found[3] or "", indent, [line[found.end() :]]
    if kind == "function":  # which makes an object later, of the class in the value
        given = message.partition(f"expects a {kind}")[2]
        kind = "".join(re.findall(r"value: Namespace\(class_path='(.+?)'", given)[:1])
    entry = re.search(rf"'(\w+)': \W*(?:Namespace\()?class_path\W+{re.escape(kind)}'", message) if kind else None
    path += [entry[1]] if entry and entry[1] != path[-1] else []  # the class stands in a dict
    return ".".join(path), kind, "\n".join(text).strip(": \n") + "\n"


def _wrong_value(option: str, text: str) -> str:
    """Say which class is missing or not allowed, or what is expected and what came."""
    if "Literal[" not in text and (found := WRONG_CLASS.search(text)):  # else a word is allowed as well
        place, _, name = (found[1], "", found[2]) if found[1] else (found[2] or "").rpartition(".")
        modules = [importlib.import_module(each) for each in ([place] if place else places_of(option))]
        below = [info for each in modules for info in pkgutil.iter_modules(getattr(each, "__path__", []))]
        known = [info.name for info in below] + [name for each in modules for name in dir(each)]
        return found[0].rstrip(".") + (nearest(name, known) if name else "")
    if found := WRONG_VALUE.search(text):
        types = re.sub(r"<class '([\w.]+)'>", r"\1", found[1] or found[2]).replace("NoneType", "null")
        types = re.sub(r"Annotated\[(\w+), .*?\]", r"\1", re.sub(r"\b(?:[a-z]\w*\.)+(\w+)", r"\1", types))
        expected = " or ".join(re.split(r",\s*(?![^\[]*\])", types))  # "int or null", "list[Callback] or null"
        given = "null" if found[3] == "None" else repr(found[3])
        return f"expected {expected}; got {given}" + nearest(found[3], re.findall(r"[\w.-]+", expected))
    return " ".join(text.split())


def places_of(option: str) -> tuple[str, ...]:
    """Return the modules whose classes an option takes by name alone; `model.metrics.acc` those of `metrics`."""
    return next((PLACES[part] for part in reversed(option.split(".")) if part in PLACES), ())


def nearest(word: str, known: Iterable[str]) -> str:
    """Return the end of a message that names the nearest known word, or the value of a known key; else nothing."""
    names = {each.lower(): known[each] if isinstance(known, dict) else each for each in known}
    begins = [each for each in names if len(word) > 2 and each.startswith(word.lower())]
    found = difflib.get_close_matches(word.lower(), names, n=1) or begins
    return f". Did you mean {names[found[0]]}?" if found else ""
