"""A parser's complaint in one line that says where it belongs, what is allowed, and the nearest right word."""

import re
from collections.abc import Iterable

from lightning.pytorch import LightningDataModule, LightningModule

from src.engine.config.classes import members, nearest, no_such_class
from src.engine.config.complaint import Complaint, beside_class_path, lacks, named, option_of

# Where an option stands that other programs have under this name, or without its section.
ELSEWHERE = {
    **{name: f"model.{name}" for name in ("net", "loss", "metrics", "optimizer", "scheduler", "activation")},
    **dict.fromkeys(("lr", "learning_rate"), "model.optimizer.lr"),
    **dict.fromkeys(("epochs", "num_epochs", "n_epochs"), "trainer.max_epochs"),
    **dict.fromkeys(("gpus", "num_gpus"), "trainer.devices"),
    **dict.fromkeys(("seed", "random_seed"), "seed_everything"),
    **dict.fromkeys(("checkpoint_path", "ckpt", "resume", "resume_from_checkpoint"), "ckpt_path"),
    "batch_size": "data.batch_size",
}

METRICS = (
    "takes metrics by name, {acc: {class_path: torchmetrics.classification.BinaryAccuracy}}, each a class of "
    "torchmetrics or one of yours that derives from torchmetrics.Metric (no function, loss or net)"
)
WELL_NAMED = r"'\w+': Namespace\(.*?\)+, "  # those beside the wrong one


def explain(complaint: Complaint, options: Iterable[str], arguments: list[str]) -> str:
    """Shorten a parser's complaint and add the nearest right word.

    Args:
        complaint: What jsonargparse says; up to 15 lines for a wrong value of a union of types.
        options: Names of all options, without dashes.
        arguments: The command line; with its files it tells where a class stands.
    """
    message = re.sub(r"^(?:argument|Parser key) \"?([\w.]+)\"?:\s*", r"\1: ", complaint.message)
    if required := re.fullmatch(r"the following arguments are required: (.*)", message):
        return lacks(complaint.kind, re.sub(r"\b(fit|validate|test|predict)\.", "", required[1]), arguments)
    if complaint.kind and re.match(r"[\w.]+: ", message):
        message = f"{option_of(complaint.kind, arguments)}.{message}"
    if told := no_such_class(message) or _of_a_class(message):
        return told
    if unknown := re.search(r"Option '(\w[\w.]*)' is not accepted", message):
        return _of_an_argument(unknown[1], complaint, arguments)
    if complaint.kind and (unknown := re.match(r"unrecognized arguments: --([\w.]+)", message)):
        return _of_an_argument(unknown[1], complaint, arguments)
    if group := re.match(r"([\w.]+): Unable to load config '(.*?)'", " ".join(message.split())):
        within = [f"--{name}" for name in options if name.startswith(f"{group[1]}.")]
        return f"{group[1]}: got {group[2]!r}; it has options of its own: {', '.join(within)}"
    if union := re.search(r"Subtypes: \[(.*?)\]\n\s*Errors:.*Given value: (.*)", message, re.DOTALL):
        message = f"{message.split(':')[0]}: expected {_types(union[1])}; got {_given(union[2])!r}"
    message = re.sub(
        r"Expected an? (.*)\. Got value: (.*)", lambda m: f"expected {_types(m[1])}; got {m[2]!r}", message
    )
    message = " ".join(message.split())
    if other := re.fullmatch(r"(\S+): expected dict\[str, Metric\] or null; got (.*)", message):
        return f"{other[1]}: {METRICS}; got {re.sub(WELL_NAMED, '', other[2])}"
    return f"{message}{_hint(message, complaint, options)}"


def _hint(message: str, complaint: Complaint, options: Iterable[str]) -> str:
    """The nearest right word to the one that a complaint is about."""
    if message == "Unexpected config:":
        return " a --config file is empty"
    if file := re.fullmatch(r"unrecognized arguments: ([^-]\S*\.ya?ml)", message):
        return f". Did you mean --config {file[1]}?"
    if equation := re.fullmatch(r"unrecognized arguments: ([\w.]+)=(\S*)", message):
        name = nearest_option(equation[1], options) or equation[1]
        return f". Did you mean --{name}={equation[2]}?"
    if unknown := re.search(r"unrecognized arguments: --([\w.-]+)|does not accept option '([\w.]+)'", message):
        name = nearest_option(unknown[1] or unknown[2], options)
        return f". Did you mean {name}?" if name else ""
    if unknown := re.search(r"module '([\w.]+)' has no attribute '(\w+)'", message):
        return nearest(unknown[2], members(unknown[1]))
    if unknown := re.search(r"invalid choice: '(\w+)' \(choose from (.*)\)", message):
        return nearest(unknown[1], re.findall(r"\w+", unknown[2]))
    if unknown := re.search(r"expected one of (.*); got '(.*)'", message):
        return nearest(unknown[2], re.split(", | or ", unknown[1]))
    return ""


def nearest_option(word: str, options: Iterable[str]) -> str:
    """Return the option that is meant by a name without its section, by another library's name, or by a mistyped one.

    Args:
        word: Without dashes.
        options: Names of all options.
    """
    word = word.replace("-", "_").replace(".init_args", "").removesuffix(".class_path")
    first, _, last = word.partition(".")[0], *word.rpartition(".")[1:]
    known = list(options)
    if word in known:
        return word
    if word == last or first not in {name.partition(".")[0] for name in known}:
        if meant := ELSEWHERE.get(last, ELSEWHERE.get(first)):
            return meant
        if len(same := [name for name in known if name.rpartition(".")[2] == last]) == 1:
            return same[0]
    near = nearest(word, known)
    return near.removeprefix(". Did you mean ").removesuffix("?")


def _of_an_argument(unknown: str, complaint: Complaint, arguments: list[str]) -> str:
    """What to say of an argument that a class does not take: its whole name, and what is meant or allowed."""
    known = sorted({name.split(".")[0] for name in complaint.options()})
    if unknown == "class_path" and (found := beside_class_path(arguments)):
        option, path, key = found
        right = f"{{class_path: {path}, init_args: {{{key}: VALUE}}}}"
        return f"{option}.{key} stands beside class_path. Write {option}: {right}"
    name = unknown.partition(".")[0]
    if not complaint.kind or not known:
        given = [key for key, _ in named(arguments) if key.rpartition(".")[2] == name]
        section = given[-1].rpartition(".")[0] if given else ""
        first = f": --{section} CLASS" if section else ", whose it is"
        return f"{section}{'.' * bool(section)}{name}: Option {name!r} is not accepted. Name the class first{first}"
    said = (
        f"{option_of(complaint.kind, arguments)}.{name}: Option {name!r} is not accepted by {complaint.kind.__name__}"
    )
    meant = ELSEWHERE.get(name, "")
    if (short := meant.rpartition(".")[2]) in known:
        return f"{said}. Did you mean {short}?"
    if meant and issubclass(complaint.kind, LightningModule | LightningDataModule):
        return f"{said}. Did you mean {meant}?"
    return said + (nearest(name, [*known, "init_args"]) or f". It takes {', '.join(known)}.")


def _of_a_class(message: str) -> str:
    """What to say where a class or function is there and cannot be taken; of another complaint nothing."""
    option = message.split(":")[0]
    if several := re.search(r"Multiple subclasses with name (\w+)\. Give the full class path .*?: (.*?)\.?\n", message):
        return f"{option}: several classes are called {several[1]}. Write one of {several[2]}."
    if silent := re.search(r"Expected '([\w.]+)' to be a function that returns (.*?)\.+(?: Got|\n|$)", message):
        kind = re.findall(r"\w+", silent[2].replace("Union", "").replace("class", ""))[0]
        return f"{option}: {silent[1]} does not say what it returns: def {silent[1].split('.')[-1]}(...) -> {kind}: ..."
    if given := re.search(r"Dict must include a class_path .* but got NestedArg\(key='(\w+)'", message):
        return f"{option}.{given[1]}: a function takes no options here. Give {given[1]} a default in Python."
    if other := re.search(r"Expected '([\w.]+)' to be a subclass of (?:<class ')?(\w+)", message):
        return f"{option}: {other[1]} is no {other[2]}"
    found = re.search(
        r"Expected a dot import path string: (.*)|Expected an import path .*, but got (.*?)\. Got", message
    )
    if found and "Subtypes" not in message:
        return f"{option}: {found[1] or found[2]} names no class. Write its path: package.module.Class"
    return ""


def _types(text: str) -> str:
    """Types as a user would write them: "int or null", "one of MNIST, KMNIST", "list[Callback] or null"."""
    text = re.sub(r"<class '([\w.]+)'>", r"\1", text).replace("NoneType", "null")
    text = re.sub(r"(?:typing\.)?Annotated\[(\w+), .*?\]", r"\1", text)
    choices = [choice.strip(" '") for group in re.findall(r"Literal\[(.*?)\]", text) for choice in group.split(",")]
    text = re.sub(r"(?:typing\.)?Literal\[.*?\]", "", text)
    text = re.sub(r"(?:typing\.)?Callable\[\[.*?\], (?:typing\.)?(?:Union\[(.*?)\]|([\w.]+))\]", r"\1\2", text)
    names = re.findall(r"[\w.]+(?:\[(?:[^\[\]]|\[(?:[^\[\]]|\[[^\[\]]*\])*\])*\])?", text)
    if "float" in names:  # then the number is what is meant: the `lr` of torch's optimizers
        names = [name for name in names if name != "torch.Tensor"]
    names = ["numbers such as [1.0, 5.0]" if name == "torch.Tensor" else _without_modules(name) for name in names]
    words = [f"one of {', '.join(dict.fromkeys(choices))}"] if choices else []
    return " or ".join(dict.fromkeys(words + names)) or text


def _given(value: str) -> str:
    """What was given, as it was written."""
    return re.sub(r"NestedArg\(key='(\w+)', val='?(.*?)'?\)", r"\1: \2", value.strip())


def _without_modules(name: str) -> str:
    return re.sub(r"\b(?:\w+\.)+(\w+)", r"\1", name)
