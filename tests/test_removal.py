"""What can be taken away leaves the rest whole: the examples, and each extra."""

import re
import subprocess

import pytest

from tests.conftest import CONFIGS, PROJECT
from tests.copies import copy_of_project, python

pytestmark = pytest.mark.slow
EXTRAS = sorted(path.stem for path in (PROJECT / "src/callbacks").glob("*.py") if path.stem != "__init__")
# What any project keeps, in a short time.
SHORT = ("tests/test_checkpoint.py", "tests/test_run_folder.py", "tests/test_module.py", "tests/test_loader.py")


def succeeds(done):
    assert done.returncode == 0, f"{done.stdout[-6_000:]}{done.stderr[-2_000:]}"
    return done.stdout


def test_the_examples_come_off_and_what_is_left_passes_tests_and_lint(tmp_path):
    if not (CONFIGS / "xor.yaml").is_file():
        pytest.skip("the examples were removed already")
    copy = copy_of_project(tmp_path)
    succeeds(python("-m", "src.tools.new", "iris", cwd=copy))
    subprocess.run(["make", "remove-examples"], cwd=copy, check=True, capture_output=True)
    left = [path for path in copy.rglob("*") if re.search("xor|mnist", path.name)]
    assert [path.relative_to(copy).parts for path in left] == [("tests", "xor.py"), ("tests", "xor.yaml")]
    for tool in (["ruff", "check"], ["ruff", "format", "--check"], ["mypy"]):
        succeeds(python("-m", *tool, cwd=copy))
    out = succeeds(python("-m", "pytest", "-q", "-p", "no:cacheprovider", cwd=copy))
    assert int(re.search(r"(\d+) passed", out)[1]) > 200


def remove(extra, copy):
    (copy / f"src/callbacks/{extra}.py").unlink()
    for path in (copy / f"tests/test_{extra}.py", *copy.glob(f"configs/*/{extra}.yaml")):
        path.unlink(missing_ok=True)


@pytest.mark.parametrize("extra", EXTRAS)
def test_an_extra_comes_off_with_its_test(extra, tmp_path):
    copy = copy_of_project(tmp_path)
    remove(extra, copy)
    succeeds(python("-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", *SHORT, cwd=copy))


def test_all_extras_come_off(tmp_path):
    copy = copy_of_project(tmp_path)
    for extra in EXTRAS:
        remove(extra, copy)
    succeeds(python("-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", *SHORT, cwd=copy))
    done = python("-m", "src", "fit", "--config", "tests/xor.yaml", cwd=copy)
    succeeds(done)
    assert (copy / "runs/xor/version_0/checkpoints/best.ckpt").is_file()
