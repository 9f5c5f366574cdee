"""The rest works without the examples and without each callback and tool."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.conftest import CONFIGS
from tests.copies import copy_of_project, lint, python


def extras_of(project: Path) -> list[Path]:
    """Return each callback and tool that does not belong to an example."""
    folders = (project / "src/callbacks", project / "src/tools")
    paths = sorted(path for folder in folders for path in folder.iterdir())
    return [
        path.relative_to(project) for path in paths if not path.name.startswith(("_", ".", "common", "xor", "mnist"))
    ]


def succeeds(done: subprocess.CompletedProcess[str]) -> str:
    assert done.returncode == 0, f"{done.stdout[-6_000:]}{done.stderr[-2_000:]}"
    return done.stdout


def passes(copy: Path, *options: str) -> int:
    """Run the tests of a copy; return how many passed."""
    out = succeeds(python("-m", "pytest", "-q", "-p", "no:cacheprovider", *options, cwd=copy))
    return int(re.search(r"(\d+) passed", out)[1])


def remove(extra: Path, copy: Path) -> None:
    """Delete a callback or tool with its tests, its YAML entries and its lines in the README."""
    name = extra.stem
    gone = [copy / extra, *copy.glob(f"configs/*/{name}.yaml"), *copy.glob(f"configs/*/*_{name}.sh")]
    gone += [copy / f"configs/{name}"] if extra.parent.name == "tools" else []
    for folder in ("", "tools/", "examples/"):
        gone += [copy / f"tests/{folder}test_{name}.py", *copy.glob(f"tests/{folder}test_{name}_*.py")]
    gone = [path for path in gone if path.exists()]
    assert copy / extra in gone
    for path in gone:
        (shutil.rmtree if path.is_dir() else Path.unlink)(path)
    entry = re.compile(rf"^( *)- class_path: src\.callbacks\.{name}\..*\n(?:\1 +.*\n)*", re.MULTILINE)
    for path in copy.glob("configs/*.yaml"):
        path.write_text(entry.sub("", path.read_text()))
    readme = copy / "README.md"
    names = [str(path.relative_to(copy)) for path in gone]
    kept = [line for line in readme.read_text().splitlines() if not any(name in line for name in names)]
    readme.write_text("\n".join(kept) + "\n")


def checks(copy: Path) -> None:
    for tool in (["ruff", "check"], ["ruff", "format", "--check"], ["mypy"]):
        succeeds(lint(copy, *tool))


MINE = [
    *("src/models/mnist_conv.py", "src/data/xor_mine.py", "src/callbacks/xor_mine.py", "src/tools/mnist_mine.py"),
    *("configs/mnist_mine.yaml", "configs/xor_mine.yaml", "configs/sweep/mnist_mine.yaml", "configs/model/mnist.yaml"),
    *("tests/test_mnist_conv.py", "tests/examples/test_mnist_mine.py", "tests/benchmarks/mine.py"),
]


def test_remove_examples_keeps_your_files(tmp_path):
    if not (CONFIGS / "xor.yaml").is_file():
        pytest.skip("the examples were removed already")
    if not (shutil.which("make") and shutil.which("bash")):
        pytest.skip("needs make and bash")
    copy = copy_of_project(tmp_path)
    before = {path.relative_to(copy).as_posix() for path in copy.rglob("*") if path.is_file()}
    for name in MINE:
        (copy / name).parent.mkdir(exist_ok=True)
        (copy / name).write_text("mine")
    subprocess.run(["make", "remove-examples"], cwd=copy, check=True, capture_output=True)
    assert [name for name in MINE if not (copy / name).is_file()] == []
    left = {path.relative_to(copy).as_posix() for path in copy.rglob("*") if path.is_file()} - {*MINE}
    assert {name for name in left if re.search(r"xor|mnist", name)} == {"tests/xor.py", "tests/xor.yaml"}
    run = [name for name in left if name.startswith(("configs/", ".github/workflows/"))]
    assert [(name, gone) for name in run for gone in before - left if gone in (copy / name).read_text()] == []
    default = subprocess.run(["make", "--dry-run", "train"], cwd=copy, check=True, capture_output=True, text=True)
    assert "fit --config configs/rows.yaml" in default.stdout


@pytest.mark.slow
def test_rest_passes_without_examples_and_extras(tmp_path):
    if not (CONFIGS / "xor.yaml").is_file():
        pytest.skip("the examples were removed already")
    copy = copy_of_project(tmp_path)
    subprocess.run(["make", "remove-examples"], cwd=copy, check=True, capture_output=True)
    if (copy / "src/tools/new.py").is_file():
        succeeds(python("-m", "src", "new", "iris", "--from", "rows", cwd=copy))
        assert (copy / "tests/test_iris.py").is_file()
    checks(copy)
    for extra in extras_of(copy):
        remove(extra, copy)
    checks(copy)
    assert passes(copy, "--numprocesses=2") > 200
