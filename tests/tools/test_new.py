"""`make new`: each example, copied under a name of one's own, is an experiment that needs the example no longer."""

import re
import shutil
import signal
import subprocess
import sys

import pytest
from PIL import Image

from src.tools import new
from tests.conftest import CONFIGS, PROJECT, write_synthetic
from tests.copies import copy_of_project, lint, python
from tests.stopping import run_differences

EXAMPLES = [name for name in ("rows", "xor", "mnist", "mnist_augmented") if (CONFIGS / f"{name}.yaml").is_file()]
MODULE = re.compile(r"\bsrc\.(models|data|callbacks)\.(\w+)")
SMALL_MNIST = ("--data.root=small", "--data.val_size=100", "--data.batch_size=32")
# What makes it short: 5 to 12 steps an epoch.
SHORT = {"xor": ["--data.passes=5"], "mnist": SMALL_MNIST, "mnist_augmented": SMALL_MNIST}

examples = pytest.mark.parametrize("source", EXAMPLES)


@pytest.fixture
def project(tmp_path, monkeypatch):
    """What `new` reads and writes, in a folder of its own."""
    configs = [f"configs/{source}.yaml" for source in EXAMPLES]  # not those that were made since
    for pattern in ("pyproject.toml", *configs, "src/*/*.py", "tests/*.py", "tests/examples/*.py"):
        for path in PROJECT.glob(pattern):
            copy = tmp_path / path.relative_to(PROJECT)
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, copy)
    monkeypatch.setattr(new, "PROJECT", tmp_path)
    return tmp_path


def contents(folder):
    return {path.relative_to(folder).as_posix(): path.read_text() for path in folder.rglob("*") if path.is_file()}


def make(project, *args):
    """Run it; returns the texts that are there since, by path, and sees that all others are as they were."""
    before = contents(project)
    new.main(list(args))
    after = contents(project)
    assert before.items() <= after.items()
    return {path: text for path, text in after.items() if path not in before}


def refused(project, capsys, *args):
    """Run it, see that it writes nothing; returns the one line that it ends with."""
    before = contents(project)
    with pytest.raises(SystemExit) as stop:
        new.main(list(args))
    assert contents(project) == before
    assert capsys.readouterr().out == ""
    assert isinstance(stop.value.code, str)
    assert "\n" not in stop.value.code
    return stop.value.code


FILES = {
    "rows": {"models/crocus", "data/crocus"},
    "xor": {"models/crocus", "data/crocus", "callbacks/crocus_surface", "callbacks/crocus_table"},
    "mnist": {"models/crocus", "data/crocus", "data/crocus_files", "data/crocus_images"},
    "mnist_augmented": {"models/crocus", *(f"data/crocus{more}" for more in ("", "_base", "_files", "_images"))},
}


@examples
def test_the_files_of_an_example_are_those_its_yaml_leads_to_and_its_test(project, source):
    made = make(project, "crocus", "--from", source)
    assert made.keys() == {f"src/{path}.py" for path in FILES[source]} | {"configs/crocus.yaml", "tests/test_crocus.py"}


@examples
def test_a_copy_names_nothing_of_its_example(project, source):
    made = make(project, "crocus", "--from", source)
    old = {path.stem for folder in ("models", "data", "callbacks") for path in (PROJECT / "src" / folder).glob("*.py")}
    old = {name for name in old if re.match("rows|xor|mnist", name)}
    code = "".join(path.read_text() for name in old for path in (PROJECT / "src").glob(f"*/{name}.py"))
    classes = {name for name in re.findall(r"^class (\w+)", code, re.M) if re.search("Rows|Xor|Mnist|MNIST", name)}
    assert {"RowsNet", "RowsDataModule"} <= classes
    for path, text in made.items():
        for package, module in MODULE.findall(text):
            assert module not in old, path
            assert (project / f"src/{package}/{module}.py").is_file(), path
        assert not classes & set(re.findall(r"\w+", text)), path
        assert f"{source}.yaml" not in text
        assert f"{source}/version_0" not in text
    named = re.findall(r"class_path: src\.(\w+)\.(\w+)\.(\w+)", made["configs/crocus.yaml"])
    own = [each for each in named if each[0] != "callbacks" or "crocus" in each[1]]  # other pictures are everybody's
    assert {package for package, _, _ in own} >= {"models", "data"}
    for package, module, name in own:
        assert "Crocus" in name
        assert f"\nclass {name}(" in made[f"src/{package}/{module}.py"]


@examples
@pytest.mark.parametrize("name", ["ab", "crocus", "zebra_finch", "a_name_of_25_characters_2"])
def test_a_copy_is_in_order_whatever_its_name(project, source, name):
    made = make(project, name, "--from", source)
    files = [path for path in made if path.endswith(".py")]
    long = ["--ignore=E501"] if len(name) > 12 else []  # a comment's line is nobody's to break
    # As strictly as ours are.
    strict = ["--config=lint.per-file-ignores={}", "--ignore=D"]
    for tool in (["check", *strict, *long], ["format", "--check"]):
        command = [sys.executable, "-m", "ruff", *tool, "--no-cache", *files]
        done = subprocess.run(command, cwd=project, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout


def test_words_that_name_no_file_and_no_class_stay(project):
    made = make(project, "crocus", "--from", "rows")
    for word in ("load_rows()", "rows=self.train_rows", "def prediction_rows", '"row": row', "Rows of numbers"):
        assert word in made["src/data/crocus.py"]
    assert "TensorLoader" in made["src/data/crocus.py"]
    assert "class CrocusDataModule(LightningDataModule):" in made["src/data/crocus.py"]
    assert 'CONFIGS / "crocus.yaml"' in made["tests/test_crocus.py"]
    assert '"runs/crocus/version_0"' in made["tests/test_crocus.py"]


@pytest.mark.skipif("mnist" not in EXAMPLES, reason="needs the example mnist, which was removed")
def test_torchvisions_mnist_and_the_fixture_of_the_tests_keep_their_names(project):
    made = make(project, "crocus", "--from", "mnist")
    assert "from torchvision.datasets import MNIST\n" in made["src/data/crocus_files.py"]
    assert 'dataset: Literal["MNIST", ' in made["src/data/crocus.py"]
    assert "class CrocusDataModule(LightningDataModule):" in made["src/data/crocus.py"]
    assert "(cli, mnist):" in made["tests/test_crocus.py"]
    assert "*mnist.options" in made["tests/test_crocus.py"]


def test_a_copy_can_be_copied(project):
    first = make(project, "crocus", "--from", EXAMPLES[-1])
    second = make(project, "tulip", "--from", "crocus")
    assert second.keys() == {path.replace("crocus", "tulip") for path in first}
    assert not [path for path, text in second.items() if re.search("crocus|Crocus", text)]


@pytest.mark.parametrize("old", ["crocus", "'crocus'", "spring flowers", "null", None])
def test_the_runs_of_a_copy_lie_in_a_folder_of_its_own(project, old):
    make(project, "crocus")
    with (project / "configs/crocus.yaml").open("a") as file:
        file.write(f"experiment: {old} # where\n" if old else "")
    text = make(project, "tulip", "--from", "crocus")["configs/tulip.yaml"]
    new = "null" if old == "null" else "tulip"
    assert re.findall("^experiment.*", text, re.M) == ([f"experiment: {new} # where"] if old else [])


GAN = {
    "configs/gan.yaml": """
a: {class_path: src.models.gan_generator.Generator}
b: {class_path: src.models.critic.GanCritic}
c: {class_path: src.models.judge.Judge}
data: {class_path: src.data.gan.GAN}
callbacks: [{class_path: src.callbacks.everyone.EMA}, {class_path: src.callbacks.ganbatte.GANbatte}]
""",
    "src/models/gan_generator.py": "class Generator:\n    pass\n",
    "src/data/gan.py": "from src.data.loader import TensorLoader\n\n\nclass GAN(TensorLoader):\n    pass\n",
}


def test_modules_of_another_name_are_shared(project):
    for path, text in GAN.items():
        (project / path).write_text(text)
    made = make(project, "crocus", "--from", "gan")
    assert made.keys() == {"src/models/crocus_generator.py", "src/data/crocus.py", "configs/crocus.yaml"}
    for shared in (
        "models.critic.GanCritic",
        "models.judge.Judge",
        "callbacks.everyone.EMA",
        "callbacks.ganbatte.GANbatte",
    ):
        assert f"src.{shared}" in made["configs/crocus.yaml"]
    assert "src.models.crocus_generator.Generator" in made["configs/crocus.yaml"]
    assert "class Crocus(TensorLoader)" in made["src/data/crocus.py"]


@pytest.mark.parametrize("odd", ["rows(1", "rows[0.1]", "ro+ws", "rows-2"])
def test_an_experiment_with_an_odd_name_can_be_copied(project, odd):
    text = (project / "configs/rows.yaml").read_text()
    (project / f"configs/{odd}.yaml").write_text(text.replace("configs/rows.yaml", f"configs/{odd}.yaml"))
    made = make(project, "iris", "--from", odd)
    assert "python -m src fit --config configs/iris.yaml" in made["configs/iris.yaml"]


def test_a_class_and_the_one_it_builds_on_do_not_get_one_name(project):
    config = make(project, "crocus")["configs/crocus.yaml"].replace("src.models.crocus.CrocusNet", "torch.nn.Flatten")
    config = config.replace("src.data.crocus.Crocus", "src.data.crocus_big.CrocusBig")
    (project / "configs/crocus_big.yaml").write_text(config)
    (project / "src/data/crocus_big.py").write_text(
        "from src.data.crocus import CrocusDataModule\n\n\nclass CrocusBigDataModule(CrocusDataModule):\n    pass\n"
    )
    made = make(project, "tulip", "--from", "crocus_big")
    assert "from src.data.tulip_base import TulipBaseDataModule\n" in made["src/data/tulip.py"]
    assert "class TulipDataModule(TulipBaseDataModule):" in made["src/data/tulip.py"]
    assert "class TulipBaseDataModule(LightningDataModule):" in made["src/data/tulip_base.py"]
    assert "src.data.tulip.TulipDataModule" in made["configs/tulip.yaml"]


@pytest.mark.parametrize("name", ["", "2x", "my-net", "class", "Crocus", "a b", "../x", "_x", "é"])
def test_a_name_that_is_none_is_refused_and_nothing_is_written(project, capsys, name):
    assert refused(project, capsys, name).startswith(f"error: NAME={name!r} must be a Python name in lower case")


@pytest.mark.parametrize(
    "there", ["src/models/crocus.py", "src/data/crocus.py", "configs/crocus.yaml", "tests/test_crocus.py"]
)
def test_a_name_that_is_taken_is_refused_and_nothing_is_written(project, capsys, there):
    (project / there).write_text("mine")
    assert f"there already: {there}." in refused(project, capsys, "crocus")


def test_a_name_that_makes_a_class_of_lightnings_is_refused(project, capsys):
    assert "LightningDataModule" in refused(project, capsys, "lightning")


def test_an_example_that_is_none_is_answered_with_those_that_are(project, capsys):
    (project / "configs/tulip.yaml").touch()
    there = ", ".join(sorted(path.stem for path in (project / "configs").glob("*.yaml")))
    assert "tulip" in there
    said = refused(project, capsys, "crocus", "--from", "nope")
    assert said == f"error: FROM='nope' is no example; there are: {there}."


def test_the_command_itself_exits_with_one_line_and_imports_no_torch():
    code = (
        "import sys, runpy; sys.argv[1:] = ['new', 'class']\ntry:\n    runpy.run_module('src', run_name='__main__')\n"
    )
    code += "finally:\n    print(*sorted({name.partition('.')[0] for name in sys.modules}))"
    done = subprocess.run([sys.executable, "-c", code], cwd=PROJECT, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.startswith("error: NAME='class' must be a Python name")
    assert len(done.stderr.splitlines()) == 1
    assert not {"torch", "lightning", "jsonargparse", "yaml"} & set(done.stdout.split())


def succeeds(done):
    assert done.returncode == 0, f"{done.stdout[-6_000:]}{done.stderr[-2_000:]}"
    return done.stdout


@pytest.fixture
def copy(tmp_path):
    """The project, with a small MNIST."""
    write_synthetic(tmp_path / "small/MNIST/raw", 400, 100)
    return copy_of_project(tmp_path)


@pytest.mark.slow
def test_the_default_is_rows_and_its_copy_runs_a_step_of_every_stage(copy):
    said = succeeds(python("-m", "src", "new", "crocus", cwd=copy))
    assert said.splitlines()[-1] == "next  python -m src fit --config configs/crocus.yaml"
    out = succeeds(
        python("-m", "src", "fit", "--config", "configs/crocus.yaml", "--trainer.fast_dev_run=true", cwd=copy)
    )
    assert out.startswith("CrocusNet, 259 parameters")


@pytest.mark.slow
@examples
def test_a_copy_survives_a_kill_and_passes_lint_and_its_test(copy, monkeypatch, source):
    made = succeeds(python("-m", "src", "new", "crocus", "--from", source, cwd=copy))
    fit = ["fit", "--config", "configs/crocus.yaml", *SHORT.get(source, []), "--trainer.max_epochs=2"]
    fit += ["--trainer.callbacks+=tests.stopping.Stop", "--checkpoint.every_n_steps=3"]
    succeeds(python("-m", "src", *fit, "--trainer.default_root_dir=whole", cwd=copy))
    monkeypatch.setenv("STOP", "SIGKILL:on_train_batch_end:7")
    assert python("-m", "src", *fit, cwd=copy).returncode == -signal.SIGKILL
    monkeypatch.delenv("STOP")
    Image.new("L", (28, 28)).save(copy / "digit.png")
    images = ["--data.predict_path=digit.png"] if "mnist" in source else []
    for args in (["fit"], ["test"], ["predict", *images]):
        succeeds(python("-m", "src", *args, "--ckpt_path", "runs/crocus/version_0", cwd=copy))
    assert run_differences(copy / "whole/crocus/version_0", copy / "runs/crocus/version_0") == []
    predictions = (copy / "runs/crocus/version_2/predictions.csv").read_text().splitlines()
    assert len(predictions) == 1 + {"rows": 138, "xor": 4}.get(source, 1)

    files = re.findall(r"^wrote (\S+\.py)$", made, re.M)
    succeeds(lint(copy, "ruff", "check", *files))
    succeeds(lint(copy, "ruff", "format", "--check", *files))
    succeeds(lint(copy, "mypy", *(file for file in files if file.startswith("src"))))
    out = succeeds(python("-m", "pytest", "-q", "-m", "slow or not slow", "tests/test_crocus.py", cwd=copy))
    assert re.search(r"\b[1-9]\d* passed", out)


@pytest.mark.slow
def test_copies_stand_after_the_examples_are_removed_and_can_be_copied_again(copy):
    for source in EXAMPLES:
        succeeds(python("-m", "src", "new", f"own_{source}", "--from", source, cwd=copy))
    subprocess.run(["make", "remove-examples"], cwd=copy, check=True, capture_output=True)
    left = {path.stem for path in (copy / "configs").glob("*.yaml")}
    assert left == {"rows", *(f"own_{source}" for source in EXAMPLES)}
    succeeds(python("-m", "src", "new", "crocus", "--from", f"own_{EXAMPLES[-1]}", cwd=copy))
    for name, source in (*((f"own_{source}", source) for source in EXAMPLES), ("crocus", EXAMPLES[-1])):
        fit = ["fit", "--config", f"configs/{name}.yaml", *SHORT.get(source, []), "--trainer.fast_dev_run=true"]
        succeeds(python("-m", "src", *fit, cwd=copy))
