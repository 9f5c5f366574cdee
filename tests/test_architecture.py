"""The shape of the house: a small core, extras that it does not know, and who may import whom."""

import ast
from pathlib import Path

import pytest

from tests.conftest import PROJECT

SRC = PROJECT / "src"
EXAMPLES = ("models/xor", "models/mnist", "data/xor", "data/mnist")  # may have been removed
CORE = ("__main__", "cli", "module", "data/loader", *(name for name in EXAMPLES if (SRC / f"{name}.py").is_file()))
FILES = sorted(SRC.rglob("*.py"))


def imports(path: Path) -> set[str]:
    """Every module that a file imports, wherever in the file."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {name.name for name in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module} | {f"{node.module}.{name.name}" for name in node.names}
    return found


def packages(path: Path) -> set[str]:
    """The third-party packages among them, and `src`."""
    return {name.split(".")[0] for name in imports(path)} & {
        "torch",
        "torchvision",
        "lightning",
        "torchmetrics",
        "jsonargparse",
        "yaml",
        "PIL",
        "src",
    }


def test_the_core_stays_under_700_lines():
    assert sum(len((SRC / f"{name}.py").read_text().splitlines()) for name in CORE) < 700


def test_the_core_imports_no_extra():
    for name in CORE:
        extras = {found for found in imports(SRC / f"{name}.py") if found.startswith("src.callbacks.")}
        assert not extras, f"{name} imports {extras}"


@pytest.mark.parametrize("path", sorted((SRC / "models").glob("*.py")), ids=lambda path: path.stem)
def test_nets_import_torch_alone(path):
    assert packages(path) <= {"torch"}


@pytest.mark.parametrize("path", sorted((SRC / "data").glob("*.py")), ids=lambda path: path.stem)
def test_data_knows_no_net_no_module_and_no_command_line(path):
    assert packages(path) <= {"torch", "torchvision", "lightning", "PIL", "src"}
    assert {name for name in imports(path) if name.startswith("src.")} <= {
        name for name in imports(path) if name.startswith("src.data")
    }


def test_the_module_knows_no_data_and_no_net():
    own = {name for name in imports(SRC / "module.py") if name.startswith("src.")}
    assert all(name.startswith("src.engine.checkpoint") for name in own)


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(SRC)))
def test_no_private_name_of_a_library_is_used(path):
    private = [
        name for name in imports(path) if any(part.startswith("_") for part in name.split(".")) and "__" not in name
    ]
    assert not private
    tree = ast.parse(path.read_text())
    own = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store)}
    own |= {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}
    used = {
        node.attr
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and node.attr.startswith("_") and not node.attr.startswith("__")
    }
    assert used <= own


def test_the_path_from_main_to_the_loss_has_three_hops():
    # __main__ -> cli.main -> [Lightning] -> LitModule.training_step -> LitModule._step, which calls the loss.
    assert "src.cli.main" in imports(SRC / "__main__.py")
    tree = ast.parse((SRC / "module.py").read_text())
    functions = {node.name: ast.unparse(node) for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}
    assert "self._step(batch, 'train')" in functions["training_step"]
    assert "self.loss(logits, target)" in functions["_step"]


def test_top_level_has_what_is_named_and_nothing_else():
    import subprocess

    listed = subprocess.run(["git", "ls-files"], cwd=PROJECT, capture_output=True, text=True, check=False)
    if listed.returncode != 0:
        pytest.skip("not a git checkout")
    top = {line.split("/")[0] for line in listed.stdout.splitlines()}
    named = {"src", "configs", "tests", "pyproject.toml", "Makefile", "README.md", "LICENSE", "requirements.lock"}
    assert {name for name in top if not name.startswith(".")} <= named
