"""`make new`: each example, copied under a name of one's own, is an experiment that needs the example no longer."""

import re
import subprocess
import sys

import pytest
from PIL import Image

from src.tools import new
from tests.conftest import CONFIGS, write_synthetic
from tests.copies import copy_of_project, lint, python
from tests.test_removal import succeeds

EXAMPLES = [name for name in ("rows", "xor", "mnist", "mnist_augmented") if (CONFIGS / f"{name}.yaml").is_file()]
MODULE = re.compile(r"\bsrc\.(models|data|callbacks)\.(\w+)")
SMALL_MNIST = ("--data.root=small", "--data.val_size=100", "--data.batch_size=32")
SHORT = {"xor": ["--data.passes=5"], "mnist": SMALL_MNIST, "mnist_augmented": SMALL_MNIST}
FILES = {
    "rows": {"models/crocus", "data/crocus"},
    "xor": {"models/crocus", "data/crocus", "callbacks/crocus_surface", "callbacks/crocus_table"},
    "mnist": {"models/crocus", "data/crocus", "data/crocus_images"},
    "mnist_augmented": {"models/crocus", *(f"data/crocus{more}" for more in ("", "_base", "_images"))},
}


@pytest.fixture
def project(tmp_path, monkeypatch):
    """Copy the project."""
    monkeypatch.setattr(new, "PROJECT", copy_of_project(tmp_path))
    return tmp_path


def contents(folder):
    files = [path for path in folder.rglob("*.*") if path.suffix in (".py", ".yaml")]
    return {path.relative_to(folder).as_posix(): path.read_text() for path in files}


def make(project, *args):
    """Run it, see that it changes no file; return the texts of new ones by path."""
    before = contents(project)
    new.main(list(args))
    after = contents(project)
    assert before.items() <= after.items()
    return {path: text for path, text in after.items() if path not in before}


@pytest.mark.parametrize(("source", "name"), [*((source, "crocus") for source in EXAMPLES), ("rows", "ab")])
def test_copy_is_in_order_and_names_nothing_of_its_example(project, capsys, source, name):
    made = make(project, name, "--from", source)
    assert "to do" not in capsys.readouterr().out
    paths = {f"src/{path}.py" for path in FILES[source]} | {"configs/crocus.yaml", "tests/test_crocus.py"}
    assert made.keys() == {path.replace("crocus", name) for path in paths}
    for path, text in made.items():
        assert not re.search(r"\bsrc\.\w+\.(rows|xor|mnist)\w*|class \w*(Rows|Xor|Mnist|MNIST)(?![a-z])", text), path
        assert not re.search(rf"\b{source}(\.yaml|/version_0)", text), path
        for package, module in MODULE.findall(text):
            assert (project / f"src/{package}/{module}.py").is_file(), path
    for package, module, found in re.findall(r"class_path: src\.(\w+)\.(\w+)\.(\w+)", made[f"configs/{name}.yaml"]):
        if package != "callbacks" or name in module:  # other pictures are everybody's
            assert f"\nclass {found}(" in made[f"src/{package}/{module}.py"]
    # As strictly as ours are.
    strict = ["--config=lint.per-file-ignores={}", "--ignore=D"]
    for tool in (["check", *strict], ["format", "--check"]):
        command = [sys.executable, "-m", "ruff", *tool, "--no-cache", *(path for path in made if path.endswith(".py"))]
        done = subprocess.run(command, cwd=project, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout


def test_copy_can_be_copied_and_its_runs_lie_in_a_folder_of_their_own(project):
    first = make(project, "crocus", "--from", EXAMPLES[-1])
    with (project / "configs/crocus.yaml").open("a") as file:
        file.write("experiment: spring flowers # where\n")
    second = make(project, "tulip", "--from", "crocus")
    assert second.keys() == {path.replace("crocus", "tulip") for path in first}
    assert not [path for path, text in second.items() if re.search("crocus|Crocus", text)]
    assert re.findall("^experiment.*", second["configs/tulip.yaml"], re.M)[-1] == "experiment: tulip # where"


def test_wrong_name_and_unknown_example_are_one_line(project, capsys):
    (project / "src/data/tulip.py").write_text("mine")
    before = contents(project)
    wrong = {name: f"error: NAME={name!r} must be" for name in ("", "2x", "class", "Crocus", "../x", "é")}
    wrong |= {"tulip": "src/data/tulip.py", "lightning": "LightningDataModule"}
    for name, word in wrong.items():
        with pytest.raises(SystemExit) as stop:
            new.main([name])
        assert word in stop.value.code
        assert "\n" not in stop.value.code
    with pytest.raises(SystemExit, match="rows"):
        new.main(["crocus", "--from", "nope"])
    assert contents(project) == before
    assert capsys.readouterr().out == ""


@pytest.mark.slow
@pytest.mark.parametrize("source", EXAMPLES)
def test_copy_works_after_the_removal_of_the_examples(tmp_path, source):
    write_synthetic(tmp_path / "small/MNIST/raw", 400, 100)
    copy = copy_of_project(tmp_path)
    made = succeeds(python("-m", "src", "new", "crocus", "--from", source, cwd=copy))
    assert made.splitlines()[-1] == "next  python -m src fit --config configs/crocus.yaml"
    subprocess.run(["make", "remove-examples"], cwd=copy, check=True, capture_output=True)
    assert {path.stem for path in (copy / "configs").glob("*.yaml")} == {"rows", "crocus"}
    fit = ["fit", "--config", "configs/crocus.yaml", *SHORT.get(source, []), "--trainer.max_epochs=2"]
    succeeds(python("-m", "src", *fit, cwd=copy))
    Image.new("L", (28, 28)).save(copy / "digit.png")
    images = ["--data.predict_path=digit.png"] if "mnist" in source else []
    for args in (["test"], ["predict", *images]):
        succeeds(python("-m", "src", *args, "--ckpt_path", "runs/crocus/version_0", cwd=copy))
    predictions = (copy / "runs/crocus/version_2/predictions.csv").read_text().splitlines()
    assert len(predictions) == 1 + {"rows": 138, "xor": 4}.get(source, 1)

    files = re.findall(r"^wrote (\S+\.py)$", made, re.M)
    succeeds(lint(copy, "ruff", "check", *files))
    succeeds(lint(copy, "mypy", *(file for file in files if file.startswith("src"))))
    tests = succeeds(python("-m", "pytest", "-q", "-m", "slow or not slow", "tests/test_crocus.py", cwd=copy))
    assert re.search(r"\b[1-9]\d* passed", tests)
