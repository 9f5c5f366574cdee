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
# Options that newcomers look for in another section.
ELSEWHERE = {
    **{name: f"model.{name}" for name in ("net", "loss", "metrics", "optimizer", "scheduler", "activation")},
    **dict.fromkeys(("lr", "learning_rate"), "model.optimizer.lr"),
    "epochs": "trainer.max_epochs",
    "batch_size": "data.batch_size",
}
FRAME = re.compile(r"Parser key \"(.+?)\"|given class_path '(.+?)'|expects a (function)")


def explain(message: str, options: list[str]) -> str:
    """Shorten a parser's message to one line and add the nearest valid name.

    Args:
        message: Text of jsonargparse's error, up to 15 lines for a wrong value of a union.
        options: Names of all options of the command line, without dashes.
    """
    if found := re.search(r"Parser key \"(.+?)\":\s*Unable to load config '(.+?)'", message):
        below = ", ".join(f"--{name}" for name in options if name.startswith(f"{found[1]}."))
        return f"{found[1]}: got {found[2]!r}; it has options of its own: {below}"
    path, kind, depth, text = [], "", -1, []
    for line in message.splitlines():
        indent = len(line) - len(line.lstrip())
        if line.strip() and indent <= depth:  # another type of a union, which was tried as well
            break
        text.append(line)
        for found in FRAME.finditer(line):
            path += [found[1]] if found[1] else []
            kind, depth, text = found[2] or found[3] or "", indent, [line[found.end() :]]
    option, problem = ".".join(path), "\n".join(text).strip(": \n") + "\n"
    if kind == "function":  # which makes an object later, of the class in the value
        kind = "".join(re.findall(r"class_path='(.+?)'", message.partition(f"expects a {kind}")[2])[:1])
    if kind and (entry := re.search(rf"'(\w+)': Namespace\(class_path='{re.escape(kind)}'", message)):  # in a dict
        option = f"{option}.{entry[1]}"
    if found := re.search(r"arguments are required: (.*?)(?:\. Got value|\n)", problem):
        if not kind or (option == "model" and found[1].startswith("net")):
            files = "--config configs/<name>.yaml, or a run, --ckpt_path runs/<name>/version_0"
            return f"{found[1]} required: name the YAML of an experiment first, {files}"
        flags = " ".join(f"--{option}.{name} VALUE" for name in found[1].split(", "))
        return f"{kind.rpartition('.')[2]} needs {found[1]}. Give {flags}"
    if found := re.match(r"unrecognized arguments: ([^\s=]+)", problem):
        is_file = found[1].endswith((".yaml", ".yml"))
        near = f". Did you mean config {found[1]}?" if is_file else _nearest_option(found[1], options)
        return f"unrecognized arguments: {found[1]}{near.replace('mean ', 'mean --')}"
    if found := re.search(r"(?:Group '(\w+)' does not accept o|O)ption '([\w.+-]+)'", problem):
        names = [part for part in (option, found[1], found[2]) if part]
        name = ".".join(names)
        if not option:
            return f"{name}: there is no such option{_nearest_option(name, options) or '.'}"
        return f"{name}: Option {found[2]!r} is not accepted{_nearest_argument(option, kind, found[2])}"
    said = _wrong_class(option, problem) or _wrong_value(problem) or " ".join(problem.split())
    return f"{option}: {said}".removeprefix(": ")


def _nearest_argument(option: str, kind: str, name: str) -> str:
    """Name the class, and its nearest argument, or the class that takes this one, or all arguments."""
    cls: Any = locate(kind)
    known = list(inspect.signature(cls).parameters) if inspect.isclass(cls) else []
    if not known:
        return f". Name the class first: --{option} CLASS"
    name = name.partition(".")[0]
    near = nearest(name, known) or f". It takes {', '.join(known)}."
    if name in ELSEWHERE and "." not in option:
        near = f". Did you mean {ELSEWHERE[name]}?"
    for same in cls.__subclasses__():  # Lightning's ReduceLROnPlateau takes `monitor`, torch's does not
        if same.__name__ == cls.__name__ and name in inspect.signature(same).parameters:
            near = f". Did you mean the class {same.__module__}.{same.__name__}?"
    return f" by {kind.rpartition('.')[2]}{near}"


def _wrong_class(option: str, text: str) -> str:
    """Say why a class or function cannot be used, if that is the problem."""
    if "Literal[" in text:  # a word is allowed as well
        return ""
    if found := re.search(r"Multiple subclasses with name (\w+)\. .*?: (.*?)\.?\n", text):
        return f"several classes are called {found[1]}. Write one of {found[2]}."
    if found := re.search(r"(?:Import path|Expected) '?([\w.]+)'? .*a subclass of (?:<class ')?(\w+)", text):
        return f"{found[1]} is no {found[2]}. Write the path of one: package.module.Class"
    if found := re.search(r"module '([\w.]+)' has no attribute '(\w+)'|No module named '([\w.]+)'", text):
        module, name = (found[1], found[2]) if found[1] else found[3].rpartition(".")[::2]
        within = f" in {module}" if module else ""
        return f"there is no {name!r}{within}{nearest(name, _members(module))}"
    if found := re.search(r"Expected a dot import path string: (\S+)", text):
        known = [name for place in places_of(option) for name in _members(place) if name[0].isupper()]
        near = nearest(found[1], known) or ". Write the path of a class: package.module.Class"
        return f"there is no {found[1]!r}{near}"
    return ""


def _wrong_value(text: str) -> str:
    """Say which type or words are expected, and what came, if that is the problem."""
    union = re.search(r"Subtypes: \[(.*?)\]\n.*?\n\s*Given value: (.*?)(?:\. Got value|\n)", text, re.DOTALL)
    found = union or re.search(r"Expected an? (.*)\. Got value: (.*)", text)
    if not found:
        return ""
    expected, given = _types(found[1]), "null" if found[2] == "None" else repr(found[2])
    near = nearest(found[2], re.findall(r"[\w.-]+", expected)) if expected.startswith("one of") else ""
    return f"expected {expected}; got {given}{near}"


def places_of(option: str) -> tuple[str, ...]:
    """Return the modules whose classes an option takes by name alone; `model.metrics.acc` those of `metrics`."""
    return next((PLACES[part] for part in reversed(option.split(".")) if part in PLACES), ())


def _members(module: str) -> list[str]:
    """Return the names in a module, modules below it first; without a module, the top-level packages."""
    found = importlib.import_module(module) if module else None
    below = [info.name for info in pkgutil.iter_modules(getattr(found, "__path__", [] if module else None))]
    return below + [name for name in dir(found) if not inspect.ismodule(getattr(found, name))]


def _nearest_option(name: str, options: list[str]) -> str:
    """Name the nearest option to one that is mistyped or lacks its section."""
    known = {each.rpartition(".")[2]: each for each in options} | {each: each for each in options} | ELSEWHERE
    name = name.strip("-").replace("-", "_")
    first = name.partition(".")[0]
    return (first not in ELSEWHERE and nearest(name, known)) or nearest(first, known)


def nearest(word: str, known: Iterable[str]) -> str:
    """Return the end of a message that names the nearest known word, or the value of a known key; else nothing."""
    names = {each.lower(): known[each] if isinstance(known, dict) else each for each in known}
    begins = [each for each in names if len(word) > 2 and each.startswith(word.lower())]
    found = difflib.get_close_matches(word.lower(), names, n=1) or begins
    return f". Did you mean {names[found[0]]}?" if found else ""


def _types(text: str) -> str:
    """Write types in plain words: "int or null", "one of MNIST, KMNIST", "list[Callback] or null"."""
    text = re.sub(r"<class '([\w.]+)'>", r"\1", text).replace("NoneType", "null")
    text = re.sub(r"Annotated\[(\w+), .*?\]", r"\1", re.sub(r"\b(?:[a-z]\w*\.)+(\w+)", r"\1", text))
    choices = re.findall(r"[^\s',]+", " ".join(re.findall(r"Literal\[(.*?)\]", text)))
    names = re.split(r",\s*(?![^\[]*\])", re.sub(r"Literal\[.*?\](?:,\s*)?", "", text))
    words = ["numbers such as [1.0, 5.0]" if name == "Tensor" else name for name in names if name]
    return " or ".join([f"one of {', '.join(dict.fromkeys(choices))}"] * bool(choices) + words)
