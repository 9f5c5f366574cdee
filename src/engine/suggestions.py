"""A parser's complaint in one line that names the nearest right word."""

import difflib
import importlib
import importlib.util
import inspect
import pkgutil
import re
from collections.abc import Iterable
from pathlib import Path

# Where the classes stand that an option takes by their name alone.
CLASSES = {
    "net": ("torch.nn",),
    "loss": ("torch.nn",),
    "optimizer": ("torch.optim",),
    "scheduler": ("torch.optim.lr_scheduler",),
    "metrics": ("torchmetrics", "torchmetrics.classification"),
    "data": (),
}


def explain(message: str, options: Iterable[str], arguments: list[str]) -> str:
    """Shorten a parser's complaint and add the nearest right word.

    Args:
        message: What jsonargparse says; up to 15 lines for a wrong value of a union of types.
        options: Names of the options, without dashes.
        arguments: The command line; tells which classes are meant where the complaint does not.
    """
    message = re.sub(r"^(?:argument|Parser key) \"?([\w.]+)\"?:\s*", r"\1: ", message)
    if union := re.search(r"Subtypes: \[(.*)\]\n.*Given value: (.*)", message, re.DOTALL):
        message = f"{message.split(':')[0]}: expected {_types(union[1])}; got {union[2].strip()!r}"
        return _no_such_class(message) or message
    message = re.sub(
        r"Expected an? (.*)\. Got value: (.*)", lambda m: f"expected {_types(m[1])}; got {m[2]!r}", message
    )
    message = " ".join(message.split())
    if told := _no_such_class(message):
        return told
    near = ""
    if required := re.fullmatch(r"the following arguments are required: (.*)", message):
        names = re.sub(r"\b(fit|validate|test|predict)\.", "", required[1])
        return f"{names} required: name the YAML of an experiment first, --config configs/<name>.yaml"
    if message == "Unexpected config:":
        return "a --config file is empty"
    if re.fullmatch(r"unrecognized arguments: [^-]\S*\.ya?ml", message):
        return f"{message}. Did you mean --config?"
    if unknown := re.search(r"unrecognized arguments: --([\w.]+)|does not accept option '([\w.]+)'", message):
        near = _nearest(unknown[1] or unknown[2], options)
    elif unknown := re.search(r"Option '(\w+)' is not accepted", message):
        near = _nearest(unknown[1], _parameters(arguments))
    elif unknown := re.search(r"module '([\w.]+)' has no attribute '(\w+)'", message):
        near = _nearest(unknown[2], _members(unknown[1]))
    elif unknown := re.search(r"invalid choice: '(\w+)' \(choose from (.*)\)", message):
        near = _nearest(unknown[1], re.findall(r"\w+", unknown[2]))
    elif unknown := re.search(r"expected one of (.*); got '(.*)'", message):
        near = _nearest(unknown[2], unknown[1].split(", "))
    return f"{message}{near}"


def _types(text: str) -> str:
    """Types as a user would write them: "int or null", "one of MNIST, KMNIST"."""
    text = text.replace("<class 'NoneType'>", "null")
    choices = [choice.strip(" '") for group in re.findall(r"Literal\[(.*?)\]", text) for choice in group.split(",")]
    others = re.findall(r"<class '([\w.]+)'>|(null)", text)
    words = [f"one of {', '.join(dict.fromkeys(choices))}"] if choices else []
    names = [a or b for a, b in others]
    if "float" not in names:  # else the number is what is meant: the `lr` of torch's optimizers
        names = ["numbers such as [1.0, 5.0]" if name == "torch.Tensor" else name for name in names]
    return " or ".join(words + [name for name in names if name != "torch.Tensor"]) or text


def _no_such_class(message: str) -> str:
    """What to say of a class that is not there; of another complaint nothing."""
    found = re.match(r"([\w.]+): - Expected a path but ([A-Za-z_][\w.]*) either not accessible", message) or re.match(
        r"([\w.]+): expected .*; got ['\"](?:NestedArg\(key='\w+', val=')?([A-Za-z_][\w.]*)['\"]", message
    )
    option = found[1].split(".")[-1] if found else ""
    if not found or option not in CLASSES:
        return ""
    module, _, name = found[2].rpartition(".")
    while module and not _exists(module):  # the part that is wrong
        module, _, name = module.rpartition(".")
    places = (module,) if module else CLASSES[option]
    if any(isinstance(getattr(importlib.import_module(place), name, None), type) for place in places):
        return ""  # it is there, and not what the option takes
    known = [member for place in places for member in _members(place, classes=found[2].endswith(name))]
    where = f" in {module}" if module else ""
    return f"{found[1]}: there is no {name!r}{where}{_nearest(name, known)}"


def _exists(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except (ImportError, ValueError):
        return False


def _nearest(word: str, known: Iterable[str]) -> str:
    """The end of the message, or nothing."""
    by_lower = {each.lower(): each for each in known if each != word}
    found = difflib.get_close_matches(word.lower(), by_lower, n=1)
    return f". Did you mean {by_lower[found[0]]}?" if found else ""


def _members(module: str, classes: bool = False) -> list[str]:
    """Names in a module, and the modules below it; or its classes alone."""
    found = importlib.import_module(module)
    if classes:
        return [name for name, value in vars(found).items() if isinstance(value, type)]
    return [*dir(found), *(info.name for info in pkgutil.iter_modules(getattr(found, "__path__", [])))]


def _parameters(arguments: list[str]) -> set[str]:
    """Parameters of each class that the command line and its config files name."""
    texts = [*arguments, *(Path(a).read_text() for a in arguments if a.endswith(".yaml") and Path(a).is_file())]
    found: set[str] = set()
    for path in {*re.findall(r"\w[\w.]*\.[A-Z]\w*", "\n".join(texts))}:
        module, _, name = path.rpartition(".")
        try:
            found |= set(inspect.signature(getattr(importlib.import_module(module), name)).parameters)
        except (ImportError, AttributeError, ValueError, TypeError):
            continue
    return found
