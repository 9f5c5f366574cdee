"""Where the classes of an option stand, and what was meant by a name that is none of them."""

import difflib
import importlib
import importlib.util
import inspect
import pkgutil
import re
from collections.abc import Iterable
from pathlib import Path

from lightning.pytorch import Callback, LightningDataModule, LightningModule
from lightning.pytorch.loggers import Logger
from lightning.pytorch.profilers import Profiler
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from torchmetrics import Metric

# Where the classes stand that an option takes by their name alone.
CLASSES = {
    "net": ("torch.nn",),
    "loss": ("torch.nn",),
    "activation": ("torch.nn",),
    "optimizer": ("torch.optim",),
    "scheduler": ("torch.optim.lr_scheduler",),
    "metrics": ("torchmetrics", "torchmetrics.classification"),
    "callbacks": ("lightning.pytorch.callbacks",),
    "logger": ("lightning.pytorch.loggers",),
    "profiler": ("lightning.pytorch.profilers",),
    "model": (),
    "data": (),
}
# What may be meant in a module of one's own, where anything may stand.
BASES: dict[str, type] = {
    "net": nn.Module,
    "loss": nn.Module,
    "optimizer": Optimizer,
    "scheduler": LRScheduler,
    "metrics": Metric,
    "callbacks": Callback,
    "logger": Logger,
    "profiler": Profiler,
    "model": LightningModule,
    "data": LightningDataModule,
}

TOP = ("src", "torch", "torchvision", "torchmetrics", "lightning")  # packages of the classes that are named most


def no_such_class(message: str) -> str:
    """What to say of a class that is not there; of another complaint nothing.

    Args:
        message: The parser's, which begins with the option.
    """
    option = message.split(":")[0]
    parts = option.split(".")
    kind = "metrics" if parts[-2:-1] == ["metrics"] else parts[-1]
    places = CLASSES.get(kind)
    if places is None:
        return ""
    # Where words are allowed, too, a single one is a mistyped one of them.
    paths = [path for path in _paths(message) if "." in path or "Literal[" not in message]
    return next((f"{option}: {told}" for path in paths if (told := _meant(path, places, BASES.get(kind, object)))), "")


def _paths(message: str) -> list[str]:
    """The classes that a complaint is about."""
    patterns = (
        r"Problem with given class_path '([\w.]+)'",
        r"class_path['\"]?[:=]\s*['\"]([\w.]+)['\"]",
        r"Expected a path but ([A-Za-z_][\w.]*) either not accessible",
        r"Expected a dot import path string: ([A-Za-z_][\w.]*)",
        r"Given value: ([A-Za-z_][\w.]*)\s*$",
        r"NestedArg\(key='\w+', val='([A-Za-z_][\w.]*)'",
    )
    return list(dict.fromkeys(path for pattern in patterns for path in re.findall(pattern, message)))


def _meant(path: str, places: tuple[str, ...], base: type) -> str:
    """What is wrong with the name of a class, and which one was meant; nothing where that is not the fault."""
    whole, (module, _, name) = path, path.rpartition(".")
    last = name
    if exists(whole) and (within := own_classes(whole, base)):
        return f"{whole} is a module. Name a class in it: {', '.join(f'{whole}.{each}' for each in within[:3])}"
    while module and not exists(module):  # the part that is wrong
        module, _, name = module.rpartition(".")
    if any(_has(place, name) for place in ((module,) if module else places)):
        elsewhere = [f"{place}.{last}" for place in places if module and _has(place, last)]
        moved = elsewhere and module not in places
        return f"{whole} is not what it takes. Did you mean {elsewhere[0]}?" if moved else ""
    known = [
        each for place in ((module,) if module else places) for each in members(place, base if name == last else None)
    ]
    if not module and name != last:  # the package or file is mistyped
        known = [file.stem for file in Path().iterdir() if file.suffix == ".py" or file.is_dir()] + [*TOP]
    near, elsewhere = nearest(name, known), _places_of(last, whole, places)
    if elsewhere and (name == last or not near):
        near = f". Did you mean {elsewhere[0]}?"
    return f"there is no {name!r}{f' in {module}' if module else ''}{near}"


def _has(module: str, name: str) -> bool:
    """Whether a module has something by a name that is no module itself."""
    found = getattr(importlib.import_module(module), name, None)
    return found is not None and not inspect.ismodule(found)


def _places_of(name: str, path: str, places: tuple[str, ...]) -> list[str]:
    """Full paths of the classes with this very name, in a library's places, the project, and the package of a path."""
    found = [f"{place}.{name}" for place in places if _has(place, name)]
    project = Path(__file__).parents[2]
    folders = {project, Path(path.partition(".")[0]), project.parent / path.partition(".")[0]}
    for folder in folders:
        for file in sorted(folder.rglob("*.py")) if folder.is_dir() else []:
            if file.is_relative_to(project / "engine") or file.is_relative_to(project / "tools"):
                continue
            if re.search(rf"^class {name}\b", file.read_text(encoding="utf-8", errors="replace"), re.MULTILINE):
                found.append(".".join([*file.relative_to(folder.parent).with_suffix("").parts, name]))
    return found


def exists(module: str) -> bool:
    """Whether a module can be imported."""
    try:
        return importlib.util.find_spec(module) is not None
    except (ImportError, ValueError):
        return False


def members(module: str, base: type | None = None) -> list[str]:
    """Names in a module, and the modules below it; or its classes of a base alone."""
    found = importlib.import_module(module)
    if base is not None:
        return [name for name, value in vars(found).items() if inspect.isclass(value) and issubclass(value, base)]
    return [*dir(found), *(info.name for info in pkgutil.iter_modules(getattr(found, "__path__", [])))]


def own_classes(module: str, base: type) -> list[str]:
    """Names of the classes of a base that a module itself defines."""
    own = vars(importlib.import_module(module))
    return [name for name in members(module, base) if own[name].__module__ == module]


def nearest(word: str, known: Iterable[str]) -> str:
    """The end of a message, or nothing."""
    by_lower = {each.lower(): each for each in known if each != word}
    begins = [each for each in by_lower if len(word) > 2 and each.startswith(word.lower())]
    found = difflib.get_close_matches(word.lower(), by_lower, n=1) or begins
    return f". Did you mean {by_lower[found[0]]}?" if found else ""
