"""A mistake on the command line or in a file is one line: what came, what is allowed, and advice that works."""

import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import yaml
from lightning.pytorch import Callback

from src import __main__ as program
from src.engine.config.messages import explain
from tests.conftest import SMALL, run_process
from tests.xor import XorMLP

FIT = ("fit", "--config", SMALL, "--trainer.max_epochs=1", "--data.passes=3")
HERE = __name__


class Net(XorMLP):
    """With a width of its own."""

    def __init__(self, width: int = 4) -> None:
        super().__init__(hidden=width)


class Even(XorMLP):
    """Refuses odd numbers by an error of its own."""

    def __init__(self, hidden: int) -> None:
        if hidden % 2:
            raise ValueError(f"hidden={hidden} must be even")
        super().__init__(hidden)


class Needy(Callback):
    """Takes arguments of several types."""

    def __init__(self, every: int, sizes: list[int] | None = None, names: dict[str, int] | None = None) -> None:
        self.given = (every, sizes, names)


NEEDY = ["--trainer.callbacks", f"{HERE}.Needy", "--trainer.callbacks.every=1"]

# What was typed, what the message has to say, and what its reader types next.
TYPED = {
    "an argument of the class before": (
        ["--model.net", f"{HERE}.Net", "--model.net.hidden=3"],
        ["model.net.hidden", "not accepted by Net", "It takes width"],
        ["--model.net", f"{HERE}.Net", "--model.net.width=3"],
    ),
    "a mistyped argument": (
        ["--model.net", f"{HERE}.Net", "--model.net.widht=3"],
        ["model.net.widht", "Did you mean width?"],
        ["--model.net", f"{HERE}.Net", "--model.net.width=3"],
    ),
    "an argument of another library": (
        ["--model.optimizer.learning_rate=1"],
        ["model.optimizer.learning_rate", "by SGD", "It takes params, lr, momentum"],
        ["--model.optimizer.lr=1"],
    ),
    "an argument of a class of the same name": (
        ["--model.scheduler=torch.optim.lr_scheduler.ReduceLROnPlateau", "--model.scheduler.monitor=val/loss"],
        ["model.scheduler.monitor", "the class lightning.pytorch.cli.ReduceLROnPlateau?"],
        ["--model.scheduler=lightning.pytorch.cli.ReduceLROnPlateau", "--model.scheduler.monitor=val/loss"],
    ),
    "an argument before its class": (
        ["--trainer.callbacks.monitor=val/loss"],
        ["trainer.callbacks.monitor", "Name the class first: --trainer.callbacks CLASS"],
        ["--trainer.callbacks=EarlyStopping", "--trainer.callbacks.monitor=val/loss"],
    ),
    "a class in a wrong module": (
        ["--model.net", f"{HERE}.Nett"],
        [f"model.net: there is no 'Nett' in {HERE}. Did you mean Net?"],
        ["--model.net", f"{HERE}.Net"],
    ),
    "a module for a class": (
        ["--model.net", HERE],
        [f"model.net: {HERE} is no Module", "package.module.Class"],
        ["--model.net", f"{HERE}.Net"],
    ),
    "a mistyped module": (
        ["--model.net", "tests.engine.test_message.Net"],
        ["there is no 'test_message' in tests.engine. Did you mean test_messages?"],
        ["--model.net", "tests.engine.test_messages.Net"],
    ),
    "a class of another package": (
        ["--trainer.callbacks=torch.optim.ModelSummary"],
        ["Did you mean lightning.pytorch.callbacks.ModelSummary?"],
        ["--trainer.callbacks=lightning.pytorch.callbacks.ModelSummary"],
    ),
    "a mistyped class of a library": (
        ["--trainer.callbacks+=ModelSumary"],
        ["trainer.callbacks: there is no 'ModelSumary'. Did you mean ModelSummary?"],
        ["--trainer.callbacks+=ModelSummary"],
    ),
    "a class in small letters": (
        ["--model.optimizer=adam"],
        ["model.optimizer: there is no 'adam'. Did you mean Adam?"],
        ["--model.optimizer=Adam"],
    ),
    "a class in a list": (
        ["--trainer.callbacks", '[{"class_path": "ModelSumary"}]'],
        ["Did you mean ModelSummary?"],
        ["--trainer.callbacks", '[{"class_path": "ModelSummary"}]'],
    ),
    "a mistyped metric": (
        ["--model.metrics.acc=BinaryAcuracy"],
        ["model.metrics", "Did you mean BinaryAccuracy?"],
        ["--model.metrics.acc=BinaryAccuracy"],
    ),
    "a word for a class": (
        ["--trainer.logger=csv"],
        ["trainer.logger", "Did you mean CSVLogger?"],
        ["--trainer.logger=CSVLogger", "--trainer.logger.save_dir=."],
    ),
    "a word among words": (
        ["--model.activation=softmaxx"],
        ["model.activation: expected one of sigmoid, softmax, exp, identity or Module", "Did you mean softmax?"],
        ["--model.activation=softmax"],
    ),
    "a mistyped option": (
        ["--trainer.max_epoch=2"],
        ["trainer.max_epoch: there is no such option. Did you mean trainer.max_epochs?"],
        ["--trainer.max_epochs=2"],
    ),
    "a dash for an underscore": (
        ["--trainer.max-epochs=2"],
        ["Did you mean trainer.max_epochs?"],
        ["--trainer.max_epochs=2"],
    ),
    "an option without its section": (
        ["--max_steps=2"],
        ["max_steps", "Did you mean trainer.max_steps?"],
        ["--trainer.max_steps=2"],
    ),
    "an option of elsewhere": (["--epochs=2"], ["Did you mean trainer.max_epochs?"], ["--trainer.max_epochs=2"]),
    "an argument of elsewhere": (
        ["--model.lr=1"],
        ["model.lr", "Did you mean model.optimizer.lr?"],
        ["--model.optimizer.lr=1"],
    ),
    "a section of the model": (
        ["--optimizer=Adam"],
        ["optimizer: there is no such option. Did you mean model.optimizer?"],
        ["--model.optimizer=Adam"],
    ),
    "an option without dashes": (
        ["max_epochs=2"],
        ["max_epochs=2", "Did you mean --trainer.max_epochs=2?"],
        ["--trainer.max_epochs=2"],
    ),
    "a word for a group": (["--track=mlflow"], ["track: got 'mlflow'", "--track.mlflow"], ["--track.mlflow=true"]),
    "a text for a number": (
        ["--model.optimizer.lr=fast"],
        ["model.optimizer.lr: expected float", "got 'fast'"],
        ["--model.optimizer.lr=0.1"],
    ),
    "a text for a share": (
        ["--trainer.limit_val_batches=x"],
        ["trainer.limit_val_batches: expected int or float or null; got 'x'"],
        ["--trainer.limit_val_batches=0.5"],
    ),
    "an element of a list": (
        [*NEEDY, "--trainer.callbacks.sizes=[a]"],
        ["trainer.callbacks.sizes: expected list[int] or null; got"],
        [*NEEDY, "--trainer.callbacks.sizes=[2]"],
    ),
    "a list for a dict": (
        [*NEEDY, "--trainer.callbacks.names=[1]"],
        ["trainer.callbacks.names: expected dict[str, int] or null; got '[1]'"],
        [*NEEDY, "--trainer.callbacks.names={a: 1}"],
    ),
    "a metric without a name": (
        ["--model.metrics=BinaryAccuracy"],
        ["model.metrics: expected dict[str, Metric] or null; got 'BinaryAccuracy'"],
        ["--model.metrics.acc=BinaryAccuracy"],
    ),
    "a number for a class": (
        ["--model.optimizer=3"],
        ["model.optimizer: there is no '3'. Write the path of a class: package.module.Class"],
        ["--model.optimizer=torch.optim.SGD"],
    ),
    "a class of another kind": (
        ["--model.optimizer=torch.optim.lr_scheduler.StepLR"],
        ["model.optimizer: torch.optim.lr_scheduler.StepLR is no Optimizer"],
        ["--model.optimizer=torch.optim.Adam"],
    ),
    "a file without its option": (
        [str(SMALL)],
        [f"Did you mean --config {SMALL}?"],
        ["--config", SMALL],
    ),
}  # fmt: skip

# The same in files: what was written, what the message has to say, and what its reader writes next.
WRITTEN = {
    "a section that is none": (
        {"model": {"netz": {"class_path": f"{HERE}.Net"}}},
        ["model.netz", "Did you mean net?"],
        {"model": {"net": {"class_path": f"{HERE}.Net"}}},
    ),
    "an argument beside the class": (
        {"model": {"net": {"class_path": f"{HERE}.Net", "width": 3}}},
        ["model.net.width stands beside class_path", f"{{class_path: {HERE}.Net, init_args: {{width: VALUE}}}}"],
        {"model": {"net": {"class_path": f"{HERE}.Net", "init_args": {"width": 3}}}},
    ),
    "an optimizer at the top": (
        {"optimizer": {"class_path": "Adam"}},
        ["optimizer.class_path: there is no such option. Did you mean model.optimizer?"],
        {"model": {"optimizer": {"class_path": "Adam"}}},
    ),
    "a mistyped section": (
        {"trainr": {"max_epochs": 2}},
        ["trainr.max_epochs", "Did you mean trainer.max_epochs?"],
        {"trainer": {"max_epochs": 2}},
    ),
    "a wrong class": (
        {"model": {"optimizer": {"class_path": "SDG"}}},
        ["model.optimizer: there is no 'SDG'. Did you mean SGD?"],
        {"model": {"optimizer": {"class_path": "SGD"}}},
    ),
}


def check(done, words):
    assert done.code == 1
    (line,) = [line for line in done.err.splitlines() if not line.startswith("note: ")]
    assert line.startswith("error: ")
    for word in words:
        assert word in line


@pytest.mark.parametrize("name", TYPED)
def test_an_option(cli, name):
    typed, words, following = TYPED[name]
    check(cli(*FIT, *typed), words)
    done = cli(*FIT, *following, "--print_config")
    assert done.code == 0, done.err


@pytest.mark.parametrize("name", WRITTEN)
def test_a_file(cli, tmp_path, name):
    written, words, following = WRITTEN[name]
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(written))
    check(cli(*FIT, "--config", "mine.yaml"), words)
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(following))
    done = cli(*FIT, "--config", "mine.yaml", "--print_config")
    assert done.code == 0, done.err


def test_a_module_that_is_not_there(cli, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "advised_layers.py").write_text(f"from {HERE} import Net\n")
    check(cli(*FIT, "--model.net=advised_layer.Net"), ["model.net", "'advised_layer'", "Did you mean advised_layers?"])


@pytest.mark.parametrize("typed", ["mine", "configs/mine.yml", "mine.yaml", "configs/mien.yaml"])
def test_a_config_file_that_is_not_there(cli, tmp_path, typed):
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs/mine.yaml").write_text(SMALL.read_text())
    check(
        cli("fit", "--config", typed), [f"--config {typed}: there is no such file", "Did you mean configs/mine.yaml?"]
    )


LACKS = {
    "scheduler": (["--model.scheduler=StepLR"], "StepLR needs step_size", "--model.scheduler.step_size", 2),
    "metric": (["--model.metrics.f1=MulticlassF1Score"], "needs num_classes", "--model.metrics.f1.num_classes", 2),
    "callback": (["--trainer.callbacks+=EarlyStopping"], "needs monitor", "--trainer.callbacks.monitor", "val/loss"),
    "logger": (["--trainer.logger", "CSVLogger"], "CSVLogger needs save_dir", "--trainer.logger.save_dir", "."),
    "own callback": (NEEDY[:2], "Needy needs every", "--trainer.callbacks.every", 3),
    "own net": (["--model.net", f"{HERE}.Even"], "Even needs hidden", "--model.net.hidden", 6),
}


@pytest.mark.parametrize("name", LACKS)
def test_a_class_that_lacks_an_argument_says_how_to_give_it(cli, tmp_path, name):
    options, needs, flag, value = LACKS[name]
    done = cli(*FIT, *options)
    check(done, [needs, f"{flag} VALUE"])
    # Both ways that it names are ways.
    by_option = cli(*FIT, *options, f"{flag}={value}", "--print_config")
    assert by_option.code == 0, by_option.err
    place, _, section = done.err.partition("in a file, at ")[2].partition(": ")
    content = yaml.safe_load(section.replace("VALUE", str(value)))
    for part in reversed(place.split(".")):
        content = {part: content}
    (tmp_path / "more.yaml").write_text(yaml.safe_dump(content))
    done = cli(*FIT, "--config", "more.yaml", "--print_config")
    assert done.code == 0, done.err


def test_of_an_experiment_the_section_is_named_and_without_one_the_file(cli, tmp_path):
    (tmp_path / "mine.yaml").write_text("model: {net: {class_path: tests.xor.XorMLP}}\n")
    check(cli("fit", "-c", "mine.yaml"), ["LitModule needs optimizer. On the command line: --model.optimizer VALUE"])
    check(cli("fit", "--trainer.max_epochs=1"), ["name the YAML of an experiment first"])


REFUSED = {
    "word": (["EarlyStopping", "monitor=val/loss", "mode=minimum"], "EarlyStopping: `mode` can be min, max"),
    "number": (["GradientAccumulationScheduler", "scheduling={}"], "Empty dict cannot be interpreted correct"),
    "package": (["RichProgressBar"], "requires `rich`"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_a_callback_of_a_library_that_refuses_is_one_line(cli, name):
    if name == "package" and find_spec("rich"):
        pytest.skip("rich is installed")
    (kind, *arguments), hint = REFUSED[name]
    done = cli(*FIT, f"--trainer.callbacks={kind}", *(f"--trainer.callbacks.{argument}" for argument in arguments))
    assert done.code == 1
    assert hint in done.err
    assert len([line for line in done.err.splitlines() if "Seed set" not in line]) == 1


def too_wide(hidden: int = 4) -> XorMLP:
    """A function that makes a net, with a bug."""
    raise ValueError(f"{hidden} is too wide")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("net", "hidden", "last", "where"),
    [
        (f"{HERE}.Even", 3, ["ValueError: hidden=3 must be even", f"from {HERE}.Even(hidden=3)"], "in __init__"),
        (
            "tests.xor.XorMLP",
            -3,
            [
                "RuntimeError: Trying to create tensor with negative dimension -3: [-3, 2]",
                "from tests.xor.XorMLP(hidden=-3)",
            ],
            "in __init__",
        ),
        (f"{HERE}.too_wide", 7, ["ValueError: 7 is too wide"], "in too_wide"),
    ],
)
def test_a_users_own_code_keeps_its_traceback_and_nothing_of_the_parsers(tmp_path, net, hidden, last, where):
    done = run_process(*FIT, "--model.net", net, f"--model.net.hidden={hidden}", cwd=tmp_path)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-len(last) :] == last
    assert where in done.stderr
    assert "Given value" not in done.stderr
    assert len(done.stderr.splitlines()) < 65


def test_a_union_of_types_is_told_in_one_line():
    complaint = (
        'Parser key "a.b":\n  Does not validate against any of the Union subtypes\n'
        "  Subtypes: [<class 'int'>, typing.Literal['x', 'y'], <class 'NoneType'>]\n  Errors:\n    - ...\n"
        "  Given value type: <class 'str'>\n  Given value: z"
    )
    assert explain(complaint, []) == "a.b: expected one of x, y or int or null; got 'z'"


# The help.


def test_the_help_of_a_verb_promises_only_what_works(cli):
    out = cli("test", "--help").out
    assert out.startswith("usage: python -m src test [options]\n")
    assert "A checkpoint of a run, or the run's folder, which stands for its last.ckpt." in " ".join(out.split())
    assert not [word for word in ("weights_only", "hpc", "URL", "'registry'") if word in out]
    out = cli("fit", "--model.help", "src.module.LitModule").out
    assert "known subclasses" not in out
    assert "--model.net.help" in out
    assert len(out.splitlines()) < 70


@pytest.mark.parametrize("words", [[], ["--help"]])
def test_the_help_names_verbs_and_programs_without_an_import(words, tmp_path, monkeypatch, capsys):
    for text, phrase in {
        "Draws it: `draw --to x.png`": "Draws it",
        "Reads x.yaml as bash\ndoes.": "Reads x.yaml as bash",
    }.items():
        for path in (tmp_path / "tools/one.py", tmp_path / "tools/two/__init__.py"):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(f'"""{text}"""\nraise SystemExit\ndef main(): ...\n')
        (tmp_path / "tools/shared.py").write_text(f'"""{text}"""\n')
        assert program.programs(tmp_path / "tools") == {"one": phrase, "two": phrase}
    monkeypatch.setattr(sys, "argv", ["src", *words])
    program.start()
    out = capsys.readouterr().out
    names = ["fit", "validate", "test", "predict", *program.programs(Path(program.__file__).parent / "tools")]
    assert all(f"\n    {name} " in out for name in names)
    assert len(out.splitlines()) < 40
