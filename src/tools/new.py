"""Copies an example under a new name, the start of your own: `python -m src new iris --from rows`."""

import itertools
import keyword
import re
import subprocess
import sys
from pathlib import Path

from src.tools.common import Parser, refuse

PROJECT = Path(__file__).parents[2]
EXPERIMENT = re.compile(r"^(experiment: *)(?!null\b|~)[^\s#][^\n#]*?(?= *(?:#|$))", re.MULTILINE)
MODULE = re.compile(r"\bsrc\.(models|data|callbacks)\.(\w+)")


def modules(name: str, source: str, words: list[str]) -> dict[str, str]:
    """Return the new "data.iris" of each "data.rows" that an example's YAML, or one of its modules, names.

    Those of another name than the example's words (`loader`, `swa`) are shared and stay.
    """
    queue = MODULE.findall((PROJECT / f"configs/{source}.yaml").read_text(encoding="utf-8"))
    renamed: dict[str, str] = {}
    for package, module in queue:  # which grows
        path = PROJECT / f"src/{package}/{module}.py"
        rest = re.fullmatch(rf"(?:{'|'.join(map(re.escape, words))})((?:_.*)?)", module)
        if rest and f"{package}.{module}" not in renamed and path.is_file():
            # mnist_augmented takes the place of the mnist that it builds on.
            new = f"{package}.{name}{rest[1]}"
            renamed[f"{package}.{module}"] = f"{package}.{name}_base{rest[1]}" if new in renamed.values() else new
            queue += MODULE.findall(path.read_text(encoding="utf-8"))
    return renamed


def classes(name: str, code: str, words: list[str]) -> dict[str, str]:
    """Return the new name of each class that has a word of the example in it."""
    camel, *others = ["".join(part.capitalize() for part in word.split("_")) for word in (name, *words)]
    forms = "|".join(re.escape(form) for form in (*others, *(word.upper() for word in words)))
    renamed: dict[str, str] = {}
    for old in re.findall(rf"^class (\w*(?:{forms})(?![a-z])\w*)", code, re.MULTILINE):
        new = re.sub(f"({forms})(?![a-z])", camel, old)
        renamed[old] = new if new not in renamed.values() else new.replace(camel, f"{camel}Base")
    return renamed


def plan(name: str, source: str) -> dict[str, str]:
    """Return the files of an example under a new name and their texts, not written yet.

    Only names change: of the modules, of the classes that they define, of the YAML and of its runs' folder.
    """
    if not re.fullmatch("[a-z][a-z0-9_]*", name) or keyword.iskeyword(name):
        refuse(f"NAME={name!r} must be a Python name in lower case, and no keyword. For example: make new NAME=iris")
    if source not in (examples := sorted(path.stem for path in PROJECT.glob("configs/*.yaml"))):
        refuse(f"FROM={source!r} is no example; there are: {', '.join(examples)}.")
    # Of mnist_augmented both that and mnist.
    words = [*itertools.accumulate(source.split("_"), "{}_{}".format)][::-1]
    words = [word for word in words if word == source or any(PROJECT.glob(f"src/*/{word}.py"))]
    moved = modules(name, source, words)
    files = {f"src/{old.replace('.', '/')}.py": f"src/{new.replace('.', '/')}.py" for old, new in moved.items()}
    code = "".join((PROJECT / path).read_text(encoding="utf-8") for path in files)
    files[f"configs/{source}.yaml"] = f"configs/{name}.yaml"
    for test in sorted(PROJECT.glob(f"tests/**/test_{source}.py"))[:1]:
        files[test.relative_to(PROJECT).as_posix()] = f"tests/test_{name}.py"
    if there := [path for path in files.values() if (PROJECT / path).exists()]:
        refuse(f"NAME={name}: there already: {', '.join(there)}. Choose another; nothing was written.")
    renamed = classes(name, code, words)
    if taken := set(renamed.values()) & set(re.findall(r"\w+", code)):
        refuse(f"NAME={name}: {source} has a {taken.pop()} already. Choose another; nothing was written.")

    def translate(text: str) -> str:
        text = MODULE.sub(lambda found: f"src.{moved.get(found[0][4:], found[0][4:])}", text)
        text = re.sub(rf"\b{re.escape(source)}(?=\.yaml\b|/version_)|(?<=\bruns/){re.escape(source)}\b", name, text)
        text = EXPERIMENT.sub(rf"\g<1>{name}", text)
        return re.sub(r"\w+", lambda found: renamed.get(found[0], found[0]), text)

    return {new: translate((PROJECT / old).read_text(encoding="utf-8")) for old, new in files.items()}


def main(args: list[str]) -> None:
    """Write the files, and say what to type next."""
    parser = Parser("python -m src new", description=__doc__)
    parser.add_argument("name", help="of the new experiment, its files and, in capitals, its classes")
    parser.add_argument("--from", dest="source", metavar="EXAMPLE", default="rows", help="of configs/; default: rows")
    given = parser.parse_args(args)
    texts = plan(given.name, given.source)
    for path, text in texts.items():
        (PROJECT / path).write_text(text, encoding="utf-8")
        print(f"wrote {path}")
    # Other names have another order and another length.
    code = [path for path in texts if path.endswith(".py")]
    for tidy in (["check", "--select=I", "--config=lint.per-file-ignores={}", "--fix"], ["format"]) if code else ():
        ruff = [sys.executable, "-m", "ruff", *tidy, "--quiet", "--no-cache", *code]
        if subprocess.run(ruff, cwd=PROJECT, capture_output=True, check=False).returncode:
            print(f"to do ruff {' '.join(tidy)}")
    print(f"next  python -m src fit --config configs/{given.name}.yaml")
