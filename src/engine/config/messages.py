"""Puts a parser's complaint into one line: the option's whole name, what came, what is allowed, the nearest name.

jsonargparse nests: `Parser key "model"` holds `Problem with given class_path 'LitModule'`, which holds `Parser key
"net"`. The first chain of ever deeper lines is the option's path; what stands below it is the complaint.
"""

import difflib
import importlib
import inspect
import itertools
import pkgutil
import re
from collections.abc import Iterable
from pydoc import locate
from typing import Any

# Where the classes stand that an option takes by their name alone.
PLACES = {
    **dict.fromkeys(("net", "loss", "activation"), ("torch.nn",)),
    "optimizer": ("torch.optim",),
    "scheduler": ("torch.optim.lr_scheduler",),
    "metrics": ("torchmetrics.classification", "torchmetrics"),
    "callbacks": ("lightning.pytorch.callbacks",),
    "logger": ("lightning.pytorch.loggers",),
    "profiler": ("lightning.pytorch.profilers",),
}
# Where an option stands that a newcomer may look for without its section.
ELSEWHERE = {
    **{name: f"model.{name}" for name in ("net", "loss", "metrics", "optimizer", "scheduler", "activation")},
    **dict.fromkeys(("lr", "learning_rate"), "model.optimizer.lr"),
    "epochs": "trainer.max_epochs",
    "batch_size": "data.batch_size",
}
FRAME = re.compile(r"Parser key \"(.+?)\"|given class_path '(.+?)'|expects a (function)")


def explain(message: str, options: list[str]) -> str:
    """Shorten a parser's complaint and add the nearest right word.

    Args:
        message: What jsonargparse says; up to 15 lines for a wrong value of a union of types.
        options: Names of all options of the command line, without dashes.
    """
    if found := re.search(r"Parser key \"(.+?)\":\s*Unable to load config '(.+?)'", message):
        below = ", ".join(f"--{name}" for name in options if name.startswith(f"{found[1]}."))
        return f"{found[1]}: got {found[2]!r}; it has options of its own: {below}"
    path, kind, last, begin = [], "", (-1, 0), 0
    for match in FRAME.finditer(message):
        line = message.rfind("\n", 0, match.start()) + 1
        indent = len(message[line:]) - len(message[line:].lstrip())
        if line != last[1] and indent <= last[0]:  # another type of a union, which was tried as well
            break
        last, begin = (indent, line), match.end()
        path += [match[1]] if match[1] else []
        named = re.search(r"class_path='(.+?)'", message[begin:]) if match[3] else None
        kind = named[1] if named else match[2] or ("" if match[1] else kind)
    lines = message[begin:].split("\n")
    deeper = itertools.takewhile(lambda line: not line.strip() or len(line) - len(line.lstrip()) > last[0], lines[1:])
    return _say(".".join(path), kind, "\n".join([lines[0], *deeper]).strip(": \n"), message, options)


def _say(option: str, kind: str, text: str, message: str, options: list[str]) -> str:
    """Say what is wrong.

    Args:
        option: Its whole name.
        kind: The class whose argument it is about, if it is about one.
        text: The complaint.
        message: All of it.
        options: Names of all options.
    """
    if found := re.search(r"arguments are required: (.*?)(?:\. Got value|\n|$)", text):
        return _lacks(option, kind, found[1], message)
    if found := re.search(r"(?:Group '(\w+)' does not accept o|O)ption '([\w.+-]+)'", text):
        name = f"{found[1]}.{found[2]}" if found[1] else found[2]
        near = _not_accepted(option, kind, name.partition(".")[0]) if option else ""
        return near or f"{name}: there is no such option{_meant(name, options) or '.'}"
    if found := re.match(r"unrecognized arguments: (\S+)", text):
        name, equals, value = found[1].partition("=")
        if name.endswith((".yaml", ".yml")):
            return f"unrecognized arguments: {name}. Did you mean --config {name}?"
        near = _meant(name, options).replace("mean ", "mean --").replace("?", f"{equals}{value}?")
        return f"unrecognized arguments: {found[1]}{near}"
    if "Literal[" not in text and (told := _wrong_class(option, text)):
        return f"{option}: {told}"
    union = re.search(r"Subtypes: \[(.*?)\]\n.*?\n\s*Given value: (.*?)(?:\. Got value|\n|$)", text, re.DOTALL)
    if found := union or re.search(r"Expected an? (.*)\. Got value: (.*)", text):
        expected, given = _types(found[1]), "null" if found[2] == "None" else repr(found[2])
        near = nearest(found[2], re.findall(r"[\w.-]+", expected)) if expected.startswith("one of") else ""
        return f"{option}: expected {expected}; got {given}{near}"
    return f"{option}: {' '.join(text.split())}".removeprefix(": ")


def _lacks(option: str, kind: str, names: str, message: str) -> str:
    """Name the missing arguments, and both ways to give them."""
    if not kind or (option == "model" and names.startswith("net")):
        return (
            f"{names} required: name the YAML of an experiment first, --config configs/<name>.yaml, or a run, "
            "--ckpt_path runs/<name>/version_0"
        )
    entry = re.search(rf"'(\w+)': Namespace\(class_path='{re.escape(kind)}'", message)
    option = f"{option}.{entry[1]}" if entry and option.endswith("metrics") else option
    flags = " ".join(f"--{option}.{name} VALUE" for name in names.split(", "))
    inits = ", ".join(f"{name}: VALUE" for name in names.split(", "))
    return (
        f"{kind.rpartition('.')[2]} needs {names}. On the command line: {flags}; in a file, at {option}: "
        f"{{class_path: {kind}, init_args: {{{inits}}}}}"
    )


def _not_accepted(option: str, kind: str, name: str) -> str:
    """Name the argument that a class does not take, and what is meant or allowed."""
    found: Any = locate(kind)
    given = inspect.signature(found).parameters.values() if inspect.isclass(found) else []
    known = [each.name for each in given if each.kind not in (each.VAR_POSITIONAL, each.VAR_KEYWORD)]
    if not known:
        return f"{option}.{name}: Option {name!r} is not accepted. Name the class first: --{option} CLASS"
    same = [each for each in found.__subclasses__() if each.__name__ == found.__name__]
    if takes := [each for each in same if name in inspect.signature(each).parameters]:  # Lightning's ReduceLROnPlateau
        near = f". Did you mean the class {takes[0].__module__}.{takes[0].__name__}?"
    elif name in ELSEWHERE and "." not in option:
        near = f". Did you mean {ELSEWHERE[name]}?"
    else:
        near = nearest(name, known) or f". It takes {', '.join(known)}."
    return f"{option}.{name}: Option {name!r} is not accepted by {kind.rpartition('.')[2]}{near}"


def _wrong_class(option: str, text: str) -> str:
    """Say why a class or function cannot be taken; nothing where the complaint is about something else."""
    if found := re.search(r"Multiple subclasses with name (\w+)\. .*?: (.*?)\.?\n", text):
        return f"several classes are called {found[1]}. Write one of {found[2]}."
    if found := re.search(r"Expected '([\w.]+)' to be a function that returns .*?(\w+)'?[],>]", text):
        return f"{found[1]} does not say what it returns: def {found[1].rpartition('.')[2]}(...) -> {found[2]}: ..."
    if found := re.search(r"(?:Import path|Expected) '?([\w.]+)'? .*a subclass of (?:<class ')?(\w+)", text):
        return f"{found[1]} is no {found[2]}. Write the path of one: package.module.Class"
    if found := re.search(r"module '([\w.]+)' has no attribute '(\w+)'|No module named '([\w.]+)'", text):
        module, name = (found[1], found[2]) if found[1] else found[3].rpartition(".")[::2]
        moved = [f". Did you mean {place}.{name}?" for place in places_of(option) if hasattr(locate(place), name)]
        within = f" in {module}" if module else ""
        return f"there is no {name!r}{within}{moved[0] if moved else nearest(name, _members(module))}"
    if found := re.search(r"Expected a dot import path string: (\S+)", text):
        known = [name for place in places_of(option) for name in _members(place) if name[0].isupper()]
        near = nearest(found[1], known) or ". Write the path of a class: package.module.Class"
        return f"there is no {found[1]!r}{near}"
    return ""


def places_of(option: str) -> tuple[str, ...]:
    """Return the modules whose classes an option takes by their name alone: `model.metrics.acc` those of metrics."""
    return next((PLACES[part] for part in reversed(option.split(".")) if part in PLACES), ())


def _members(module: str) -> list[str]:
    """Return the names in a module, those of modules below it first; of no module those at the top."""
    found = importlib.import_module(module) if module else None
    below = [info.name for info in pkgutil.iter_modules(getattr(found, "__path__", [] if module else None))]
    return below + [name for name in dir(found) if not inspect.ismodule(getattr(found, name))]


def _meant(name: str, options: list[str]) -> str:
    """Name the nearest option to one that is mistyped, or stands without its section."""
    known = {each.rpartition(".")[2]: each for each in options} | {each: each for each in options} | ELSEWHERE
    name = name.strip("-").replace("-", "_")
    first = name.partition(".")[0]
    return (first not in ELSEWHERE and nearest(name, known)) or nearest(first, known)


def nearest(word: str, known: Iterable[str]) -> str:
    """Return the end of a message that names the nearest word, or nothing.

    Args:
        word: What came.
        known: What is allowed; of a dict the values are named.
    """
    names = {each.lower(): known[each] if isinstance(known, dict) else each for each in known}
    begins = [each for each in names if len(word) > 2 and each.startswith(word.lower())]
    found = difflib.get_close_matches(word.lower(), names, n=1) or begins
    return f". Did you mean {names[found[0]]}?" if found else ""


def _types(text: str) -> str:
    """Write types as a user would: "int or null", "one of MNIST, KMNIST", "list[Callback] or null"."""
    text = re.sub(r"<class '([\w.]+)'>", r"\1", text).replace("NoneType", "null")
    text = re.sub(r"Annotated\[(\w+), .*?\]", r"\1", re.sub(r"\b(?:[a-z]\w*\.)+(\w+)", r"\1", text))
    choices = re.findall(r"[^\s',]+", " ".join(re.findall(r"Literal\[(.*?)\]", text)))
    names = re.split(r",\s*(?![^\[]*\])", re.sub(r"Literal\[.*?\](?:,\s*)?", "", text))
    words = ["numbers such as [1.0, 5.0]" if name == "Tensor" else name for name in names if name]
    return " or ".join([f"one of {', '.join(dict.fromkeys(choices))}"] * bool(choices) + words)
