"""The project's structure: who may import whom, and how much a newcomer reads."""

import ast
import subprocess
from pathlib import Path

import pytest

from tests.conftest import CONFIGS, PROJECT

SRC = PROJECT / "src"


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


def test_imports_follow_the_rule():
    for path in sorted(SRC.rglob("*.py")):
        parts = path.relative_to(SRC).with_suffix("").parts
        assert [name for name in sorted(imports(path, SRC)) if not may_import(parts, name)] == [], path


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


def test_newcomer_reads_at_most_350_lines():
    task = "mnist" if (SRC / "models/mnist.py").is_file() else "rows"
    common = [SRC / "module.py", SRC / "data/loader.py"]
    files = [*common, SRC / f"models/{task}.py", SRC / f"data/{task}.py", CONFIGS / f"{task}.yaml"]
    assert sum(len(path.read_text().splitlines()) for path in files) <= 350


def test_top_level():
    listed = subprocess.run(["git", "ls-files"], cwd=PROJECT, capture_output=True, text=True, check=False)
    if listed.returncode != 0:
        pytest.skip("not a git checkout")
    top = {line.split("/")[0] for line in listed.stdout.splitlines()}
    named = {"src", "configs", "tests", "pyproject.toml", "Makefile", "README.md", "LICENSE", "requirements.lock"}
    assert {name for name in top if not name.startswith(".")} <= named | {"AGENTS.md"}
