"""The project's structure: who may import whom, how much a newcomer reads, and who uses private names."""

import ast
import functools
import re
import subprocess
import traceback
from pathlib import Path

import pytest
import torch
from torch import nn

from tests.conftest import CONFIGS, PROJECT, SMALL

SRC = PROJECT / "src"
REPAIRS = SRC / "engine/lightning_fixes"  # the one package that may use private names of a library


def imports(path: Path, src: Path) -> set[str]:
    """Return every name that a file imports, wherever in the file: `src.engine.errors.UserError`."""
    package = path.parent.relative_to(src.parent).parts
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {name.name for name in node.names}
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else ()
            origin = ".".join([*above, *([node.module] if node.module else [])])
            found |= {f"{origin}.{name.name}" for name in node.names}
    return found


def strings(path: Path, pieces: bool) -> set[str]:
    """Return every string in a file; with `pieces` also those between the values of an f-string."""
    nodes = list(ast.walk(ast.parse(path.read_text())))
    left_out = {id(part) for node in nodes if isinstance(node, ast.JoinedStr) and not pieces for part in node.values}
    texts = [node for node in nodes if isinstance(node, ast.Constant) and id(node) not in left_out]
    return {node.value for node in texts if isinstance(node.value, str)}


def may_import(parts: tuple[str, ...], name: str) -> bool:
    """Return whether a file of src, such as ("engine", "run"), may import a name."""

    def within(*prefixes: str) -> bool:
        return any(f"{name}.".startswith(f"{prefix}.") for prefix in prefixes)

    match parts[0]:
        case "engine":
            return within("src.engine") or not within("src")
        case "tools":
            own = ".".join(["src", *parts[:2]])
            return within("src.cli", "src.module", "src.tools.common", own) or not within("src")
        case "models":  # nets know nothing of training
            return within("src.models") or not within("src", "lightning", "pytorch_lightning", "torchmetrics")
        case "cli":
            return not within("src.tools")
        case "__main__":  # imports the rest when it is called
            return not within("src")
        case _:  # yours: module, data, callbacks, and what you add
            return not within("src.tools", "src.cli")


def breaches(src: Path) -> list[str]:
    """List what breaks the rule, one per line; a class of ours named in a string counts as imported."""
    found = []
    for path in sorted(src.rglob("*.py")):
        file = path.relative_to(src)
        names = imports(path, src)
        if file.name != "__main__.py":
            names |= {text.rstrip(".") for text in strings(path, pieces=True) if re.fullmatch(r"src(\.\w+)+\.?", text)}
        forbidden = [name for name in sorted(names) if not may_import(file.with_suffix("").parts, name)]
        found += [f"{file} imports {name}" for name in forbidden]
    return found


def test_imports_follow_the_rule():
    assert breaches(SRC) == []


# Packages and modules of the engine, lowest first; one imports those of earlier lines alone, and its own package.
LAYERS = (
    "errors",
    "paths processes lightning_fixes",
    "config data",
    "run",
    "checkpoint",
    "module",
    "loggers",
    "always_on",
)


def test_engine_imports_go_one_way():
    level = {name: number for number, names in enumerate(LAYERS) for name in names.split()}
    assert {path.stem for path in (SRC / "engine").iterdir() if path.suffix in ("", ".py")} - {*level} <= {
        "__init__",
        "__pycache__",
    }
    for path in (SRC / "engine").rglob("*.py"):
        own = path.relative_to(SRC / "engine").with_suffix("").parts[0]
        for other in {name.split(".")[2] for name in imports(path, SRC) if name.startswith("src.engine.")} - {own}:
            assert level[other] < level[own], f"{path} imports {other}"


FORBIDDEN = [
    ("engine/run/run.py", "from src.data.loader import TensorLoader", "src.data.loader.TensorLoader"),
    ("engine/run/run.py", "from ...data import loader", "src.data.loader"),
    ("engine/run/run.py", "DEFAULT = 'src.data.loader.TensorLoader'", "src.data.loader.TensorLoader"),
    ("cli.py", "def late(word): return importlib.import_module(f'src.tools.{word}')", "src.tools"),
    ("module.py", "from src.cli import main", "src.cli.main"),
    ("models/mine.py", "import lightning.pytorch as pl", "lightning.pytorch"),
    ("tools/mine.py", "from src.tools.yours import main", "src.tools.yours.main"),
]


@pytest.mark.parametrize(("file", "line", "name"), FORBIDDEN)
def test_forbidden_import_is_reported(file, line, name, tmp_path):
    path = tmp_path / "src" / file
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"{line}\n")
    assert breaches(tmp_path / "src") == [f"{file} imports {name}"]


def test_newcomer_reads_at_most_350_lines():
    task = "mnist" if (SRC / "models/mnist.py").is_file() else "rows"
    common = [SRC / "module.py", SRC / "data/loader.py"]
    files = [*common, SRC / f"models/{task}.py", SRC / f"data/{task}.py", CONFIGS / f"{task}.yaml"]
    assert sum(len(path.read_text().splitlines()) for path in files) <= 350


def is_private(name: str) -> bool:
    return any(re.fullmatch(r"_[^\W_]\w*", part) for part in name.split("."))


def is_own(node: ast.AST) -> bool:
    return ast.unparse(node) in ("self", "cls", "super()")


@functools.cache
def defined(src: Path) -> set[str]:
    """Return the names of all functions, classes and attributes of `self` in a folder."""
    found = set()
    for path in src.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef | ast.ClassDef):
                found.add(node.name)
            elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store) and is_own(node.value):
                found.add(node.attr)
    return found


def private_names(path: Path, src: Path) -> set[str]:
    """Return the private names of others that a file uses, in its code and in its strings."""
    used = imports(path, src) | {text for text in strings(path, pieces=False) if re.fullmatch(r"[\w.]+", text)}
    used -= defined(src)
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Attribute) and ast.unparse(node) != "os._exit":  # documented
            used |= {node.attr} - (defined(src) if is_own(node.value) else set())
    return {name for name in used if is_private(name)}


def test_no_private_name_of_a_library_is_used():
    paths = [path for path in sorted(SRC.rglob("*.py")) if path.parent != REPAIRS]
    assert {path: names for path in paths if (names := private_names(path, SRC))} == {}


PRIVATE = {
    "trainer._run()": "_run",
    "trainer._loss": "_loss",  # the file has an attribute of the same name
    "patch('lightning.pytorch.Trainer._run')": "lightning.pytorch.Trainer._run",
}


@pytest.mark.parametrize("line", PRIVATE)
def test_private_name_is_reported(line, tmp_path):
    path = tmp_path / "src/data/mine.py"
    path.parent.mkdir(parents=True)
    path.write_text(f"class Mine:\n    def _mine(self):\n        self._loss = 0\n        return self._loss\n\n{line}\n")
    assert private_names(path, tmp_path / "src") == {PRIVATE[line]}


class Watched(nn.BCEWithLogitsLoss):
    """Records which functions of src call it in training, the outermost first."""

    calls: list[list[tuple[str, str]]]

    def forward(self, logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        if logits.requires_grad:
            codes = [frame.f_code for frame, _ in traceback.walk_stack(None)][::-1]
            ours = [code for code in codes if Path(code.co_filename).is_relative_to(SRC)]
            self.calls.append([(str(Path(code.co_filename).relative_to(SRC)), code.co_qualname) for code in ours])
        return super().forward(logits, target)


def test_three_hops_from_main_to_the_loss(cli, monkeypatch):
    """`main`, then through Lightning `training_step` and `step`."""
    monkeypatch.setattr(Watched, "calls", [], raising=False)
    step = ("--trainer.max_epochs=1", "--data.passes=1", "--trainer.accelerator=cpu", "--trainer.devices=1")
    done = cli("fit", "--config", SMALL, *step, f"--model.loss={Watched.__module__}.Watched")
    assert done.code == 0, done.err
    (calls,) = Watched.calls
    assert calls[0] == ("cli.py", "main")
    assert {file for file, _ in calls[:-2]} == {"cli.py"}
    assert calls[-2:] == [("module.py", "LitModule.training_step"), ("module.py", "LitModule.step")]


def test_top_level():
    listed = subprocess.run(["git", "ls-files"], cwd=PROJECT, capture_output=True, text=True, check=False)
    if listed.returncode != 0:
        pytest.skip("not a git checkout")
    top = {line.split("/")[0] for line in listed.stdout.splitlines()}
    named = {"src", "configs", "tests", "pyproject.toml", "Makefile", "README.md", "LICENSE", "requirements.lock"}
    assert {name for name in top if not name.startswith(".")} <= named | {"AGENTS.md"}
