"""Copies an example under a new name, the start of your own: `python -m src new iris --from rows`."""

import argparse
import keyword
import re
import subprocess
import sys
from pathlib import Path

PROJECT = Path(__file__).parents[2]
MODULE = re.compile(r"\bsrc\.(models|data|callbacks)\.(\w+)")


def camel(word: str) -> str:
    """The form that a word has in a class's name."""
    return "".join(part.capitalize() for part in word.split("_"))


def examples() -> list[str]:
    """What can be copied: each experiment, by its YAML's name."""
    return sorted(path.stem for path in PROJECT.glob("configs/*.yaml"))


def modules(name: str, source: str) -> tuple[dict[tuple[str, str], str], list[str]]:
    """The modules that belong to an example.

    These are the nets and data modules that its YAML names, and whatever they or the YAML refer to by a word of the
    example: `mnist_files`, `xor_table`. What has a name of its own (`loader`, `ema`) is everybody's and stays.

    Returns:
        The new name of each (package, old name); and the example's words.
    """
    named = dict.fromkeys(MODULE.findall((PROJECT / f"configs/{source}.yaml").read_text()))
    words = list(dict.fromkeys([source, *(module for package, module in named if package != "callbacks")]))
    found: dict[tuple[str, str], str] = {}
    queue = list(named)
    for package, module in queue:
        word = next((word for word in words if module == word or module.startswith(f"{word}_")), None)
        if word is None or (package, module) in found:
            continue
        path = PROJECT / f"src/{package}/{module}.py"
        if not path.is_file():
            sys.exit(f"error: {source} names src.{package}.{module}, and src/{package}/{module}.py is not there.")
        new = name + module.removeprefix(word)
        if (package, new) in {(other, taken) for (other, _), taken in found.items()}:
            # mnist_augmented has the place of the mnist that it builds on.
            new = f"{name}_base" if source.startswith(module) else f"{name}_{module}"
        found[package, module] = new
        queue += MODULE.findall(path.read_text())
    return found, words


def plan(name: str, source: str) -> dict[Path, str]:
    """The files of an example under a new name, not written yet.

    Only names change: of the modules, of the classes that they define, of the YAML and of its runs' folder.

    Args:
        name: A Python name in lower case: that of the files, and in capitals that of the classes.
        source: The example.

    Returns:
        Each file's text.
    """
    if not re.fullmatch("[a-z][a-z0-9_]*", name) or keyword.iskeyword(name):
        sys.exit(
            f"error: NAME={name!r} must be a Python name in lower case: letters, digits and _, not a digit first, and "
            "no word of the language. For example: make new NAME=iris"
        )
    if source not in examples():
        sys.exit(f"error: FROM={source!r} is no example; there are: {', '.join(examples())}.")
    renamed, words = modules(name, source)
    files = {f"src/{package}/{old}.py": f"src/{package}/{new}.py" for (package, old), new in renamed.items()}
    code = "".join((PROJECT / path).read_text() for path in files)
    files[f"configs/{source}.yaml"] = f"configs/{name}.yaml"
    for test in list(PROJECT.glob(f"tests/**/test_{source}.py"))[:1]:
        files[str(test.relative_to(PROJECT))] = f"tests/test_{name}.py"
    if there := [path for path in files.values() if (PROJECT / path).exists()]:
        sys.exit(f"error: NAME={name}: there already: {', '.join(there)}. Choose another; nothing was written.")

    forms = "|".join(form for word in words for form in (camel(word), word.upper()))
    classes = {old: re.sub(f"({forms})(?![a-z])", camel(name), old) for old in re.findall(r"^class (\w+)", code, re.M)}
    if taken := [new for old, new in classes.items() if new != old and re.search(rf"\b{new}\b", code)]:
        sys.exit(f"error: NAME={name}: {source} has a {', '.join(taken)} already. Choose another; nothing was written.")

    def translate(text: str) -> str:
        text = MODULE.sub(lambda found: f"src.{found[1]}.{renamed.get((found[1], found[2]), found[2])}", text)
        text = re.sub(rf"\b{source}(?=\.yaml\b|/version_)|(?<=\bruns/){source}\b", name, text)
        return re.sub(r"\w+", lambda found: classes.get(found[0], found[0]), text)

    return {PROJECT / new: translate((PROJECT / old).read_text()) for old, new in files.items()}


def main(args: list[str]) -> None:
    """Write the files, and say what to type next."""
    parser = argparse.ArgumentParser("python -m src new", description=__doc__)
    parser.add_argument("name", help="of the new experiment, its files and, in capitals, its classes")
    parser.add_argument("--from", dest="source", metavar="EXAMPLE", default="rows", help=", ".join(examples()))
    given = parser.parse_args(args)
    texts = plan(given.name, given.source)
    for path, text in texts.items():
        path.write_text(text)
        print(f"wrote {path.relative_to(PROJECT)}")
    if PROJECT / f"tests/test_{given.name}.py" not in texts:
        print(f"wrote no test: {given.source} has none, tests/test_{given.source}.py")
    # Other names have another order and another length.
    code = [str(path) for path in texts if path.suffix == ".py"]
    for tidy in (["check", "--select=I", "--fix"], ["format"]):
        ruff = [sys.executable, "-m", "ruff", *tidy, "--quiet", "--no-cache", *code]
        if code and subprocess.run(ruff, cwd=PROJECT, capture_output=True, check=False).returncode:
            print(f"to do ruff {' '.join(tidy)}")
    print(f"next  python -m src fit --config configs/{given.name}.yaml")
