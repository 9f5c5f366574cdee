"""A mistake on the command line: the message names what was given, and its advice is a command that works."""

import pytest
import yaml

from tests.conftest import SMALL
from tests.xor import XorMLP

FIT = ("fit", "--config", SMALL, "--trainer.max_epochs=1", "--data.passes=3")
HERE = __name__


class Net(XorMLP):
    """With a width of its own."""

    def __init__(self, width: int = 4) -> None:
        super().__init__(hidden=width)


class Needs(Net):
    """Its width has no default."""

    def __init__(self, width: int) -> None:
        super().__init__(width)


# What was typed, what the message has to say, and what its reader types next.
TYPED = {
    "an argument of the class before": (
        ["--model.net", f"{HERE}.Net", "--model.net.hidden=3"],
        ["model.net.hidden", "not accepted by Net", "It takes width"],
        ["--model.net", f"{HERE}.Net", "--model.net.width=3"],
    ),
    "an argument of the class to come": (
        ["--model.net.width=3"],
        ["model.net.width", "not accepted by XorMLP", "It takes hidden"],
        ["--model.net.hidden=3"],
    ),
    "a mistyped argument": (
        ["--model.net", f"{HERE}.Net", "--model.net.widht=3"],
        ["model.net.widht", "Did you mean width?"],
        ["--model.net", f"{HERE}.Net", "--model.net.width=3"],
    ),
    "a class in a wrong module": (
        ["--model.net", f"{HERE}.Nett"],
        ["model.net", "'Nett'", "Did you mean Net?"],
        ["--model.net", f"{HERE}.Net"],
    ),
    "a module for a class": (
        ["--model.net", HERE],
        ["model.net", f"{HERE} is no Module", "package.module.Class"],
        ["--model.net", f"{HERE}.Net"],
    ),
    "a missing argument": (
        ["--model.net", f"{HERE}.Needs"],
        ["Needs needs width", "--model.net.width VALUE"],
        ["--model.net", f"{HERE}.Needs", "--model.net.width=3"],
    ),
    "an argument before its class": (
        ["--trainer.callbacks.monitor=val/loss"],
        ["trainer.callbacks.monitor", "--trainer.callbacks CLASS"],
        ["--trainer.callbacks=EarlyStopping", "--trainer.callbacks.monitor=val/loss"],
    ),
    "a mistyped option": (
        ["--trainer.max_epoch=2"],
        ["trainer.max_epoch: ", "Did you mean trainer.max_epochs?"],
        ["--trainer.max_epochs=2"],
    ),
    "an option without its section": (
        ["--max_steps=2"],
        ["max_steps: ", "trainer.max_steps?"],
        ["--trainer.max_steps=2"],
    ),
    "a name of elsewhere": (["--epochs=2"], ["epochs: ", "trainer.max_epochs?"], ["--trainer.max_epochs=2"]),
    "a learning rate of the module": (
        ["--model.lr=1"],
        ["model.lr", "model.optimizer.lr?"],
        ["--model.optimizer.lr=1"],
    ),
    "a learning rate by its long name": (
        ["--model.optimizer.learning_rate=1"],
        ["model.optimizer.learning_rate", "by SGD", "Did you mean lr?"],
        ["--model.optimizer.lr=1"],
    ),
    "a section of the model": (
        ["--optimizer=Adam"],
        ["optimizer: ", "model.optimizer?"],
        ["--model.optimizer=Adam"],
    ),
    "the seed": (["--seed=3"], ["seed: ", "seed_everything?"], ["--seed_everything=3"]),
    "without dashes": (
        ["max_epochs=2"],
        ["max_epochs=2", "Did you mean --trainer.max_epochs=2?"],
        ["--trainer.max_epochs=2"],
    ),
    "a word for a group": (["--track=mlflow"], ["track: got 'mlflow'", "--track.mlflow"], ["--track.mlflow=true"]),
    "a word for a class": (
        ["--trainer.logger=csv"],
        ["trainer.logger", "CSVLogger?"],
        ["--trainer.logger=CSVLogger", "--trainer.logger.save_dir=."],
    ),
    "a text for a number": (
        ["--model.optimizer.lr=fast"],
        ["model.optimizer.lr", "expected float", "'fast'"],
        ["--model.optimizer.lr=0.1"],
    ),
}
WRITTEN = {
    "a section that is none": ({"model": {"netz": {"class_path": f"{HERE}.Net"}}}, ["model.netz", "Did you mean net?"]),
    "an argument of another class": (
        {"model": {"net": {"class_path": f"{HERE}.Net", "init_args": {"hidden": 3}}}},
        ["model.net.hidden", "by Net", "It takes width"],
    ),
    "an argument beside the class": (
        {"model": {"net": {"class_path": f"{HERE}.Net", "width": 3}}},
        ["model.net.width stands beside class_path", f"{{class_path: {HERE}.Net, init_args: {{width: VALUE}}}}"],
    ),
    "an optimizer at the top": ({"optimizer": {"class_path": "Adam"}}, ["optimizer.class_path", "model.optimizer?"]),
    "a mistyped section": ({"trainr": {"max_epochs": 2}}, ["trainr.max_epochs", "Did you mean trainer.max_epochs?"]),
    "a wrong class": (
        {"model": {"optimizer": {"class_path": "SDG"}}},
        ["model.optimizer", "'SDG'", "Did you mean SGD?"],
    ),
}
NEXT = {
    "a section that is none": {"model": {"net": {"class_path": f"{HERE}.Net"}}},
    "an argument of another class": {"model": {"net": {"class_path": f"{HERE}.Net", "init_args": {"width": 3}}}},
    "an argument beside the class": {"model": {"net": {"class_path": f"{HERE}.Net", "init_args": {"width": 3}}}},
    "an optimizer at the top": {"model": {"optimizer": {"class_path": "Adam"}}},
    "a mistyped section": {"trainer": {"max_epochs": 2}},
    "a wrong class": {"model": {"optimizer": {"class_path": "SGD"}}},
}


def check(done, words):
    assert done.code != 0
    (line,) = [line for line in done.err.splitlines() if "Seed set" not in line]
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
    written, words = WRITTEN[name]
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(written))
    check(cli(*FIT, "--config", "mine.yaml"), words)
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(NEXT[name]))
    done = cli(*FIT, "--config", "mine.yaml", "--print_config")
    assert done.code == 0, done.err


def test_a_module_that_is_not_there(cli, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "advised_layers.py").write_text(f"from {HERE} import Net\n")
    check(cli(*FIT, "--model.net=advised_layer.Net"), ["model.net", "'advised_layer'", "Did you mean advised_layers?"])
    done = cli(*FIT, "--model.net=advised_layers.Net", "--print_config")
    assert done.code == 0, done.err


@pytest.mark.parametrize("typed", ["mine", "configs/mine.yml", "mine.yaml", "configs/mien.yaml"])
def test_a_config_file_that_is_not_there(cli, tmp_path, typed):
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs/mine.yaml").write_text(SMALL.read_text())
    check(
        cli("fit", "--config", typed), [f"--config {typed}: there is no such file", "Did you mean configs/mine.yaml?"]
    )
    assert cli("fit", "--config", "configs/mine.yaml", "--print_config").code == 0
    check(cli("fit", "configs/mine.yaml"), ["Did you mean --config configs/mine.yaml?"])
