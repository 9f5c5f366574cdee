"""What a parser complains of: the class, the argument, and how to give it; what constructors refuse."""

from importlib.util import find_spec

import pytest
import yaml
from lightning.pytorch import Callback

from tests.conftest import SMALL, run_process
from tests.xor import XorMLP

RICH = find_spec("rich") is not None  # `make trackers` brings it
FIT = ("fit", "--config", SMALL, "--trainer.max_epochs=1", "--data.passes=3")


class Needy(Callback):
    """Takes arguments of several types."""

    def __init__(self, every: int, sizes: list[int] | None = None, names: dict[str, int] | None = None) -> None:
        self.given = (every, sizes, names)


class Even(XorMLP):
    """Refuses odd numbers by an error of its own."""

    def __init__(self, hidden: int) -> None:
        if hidden % 2:
            raise ValueError(f"hidden={hidden} must be even")
        super().__init__(hidden)


NEEDY, EVEN = f"{__name__}.Needy", f"{__name__}.Even"
LACKS = {
    "scheduler": (["--model.scheduler=StepLR"], "StepLR needs step_size", "--model.scheduler.step_size"),
    "metric": (["--model.metrics.f1=MulticlassF1Score"], "needs num_classes", "--model.metrics.f1.num_classes"),
    "callback": (["--trainer.callbacks+=EarlyStopping"], "EarlyStopping needs monitor", "--trainer.callbacks.monitor"),
    "logger": (["--trainer.logger", "CSVLogger"], "CSVLogger needs save_dir", "--trainer.logger.save_dir"),
    "own callback": (["--trainer.callbacks", NEEDY], "Needy needs every", "--trainer.callbacks.every"),
    "own net": (["--model.net", EVEN], "Even needs hidden", "--model.net.hidden"),
}
GIVEN = {"num_classes": "2", "hidden": "6", "step_size": "2", "monitor": "val/loss", "save_dir": ".", "every": "3"}


@pytest.mark.parametrize("name", LACKS)
def test_a_class_that_lacks_an_argument_says_how_to_give_it(cli, tmp_path, name):
    options, needs, flag = LACKS[name]
    done = cli(*FIT, *options)
    assert done.code == 1
    assert len(done.err.splitlines()) == 1
    assert needs in done.err
    assert f"{flag} VALUE" in done.err
    # Both ways that it names are ways.
    argument = flag.rsplit(".", 1)[1]
    done_by_option = cli(*FIT, *options, f"{flag}={GIVEN[argument]}", "--print_config")
    assert done_by_option.code == 0, done_by_option.err
    place, _, section = done.err.partition("in a file, at ")[2].partition(": ")
    content = yaml.safe_load(section.replace("VALUE", GIVEN[argument]))
    for part in reversed(place.split(".")):
        content = {part: content}
    (tmp_path / "more.yaml").write_text(yaml.safe_dump(content))
    done = cli(*FIT, "--config", "more.yaml", "--print_config")
    assert done.code == 0, done.err


def test_of_an_experiment_the_section_is_named_and_without_one_the_file(cli, tmp_path):
    (tmp_path / "mine.yaml").write_text("model: {net: {class_path: tests.xor.XorMLP}}\n")
    assert (
        "LitModule needs optimizer. On the command line: --model.optimizer VALUE" in cli("fit", "-c", "mine.yaml").err
    )
    assert "name the YAML of an experiment first" in cli("fit", "--trainer.max_epochs=1").err


WRONG = {
    "mistyped callback": (["--trainer.callbacks+=EarlyStoping"], "there is no 'EarlyStoping'. Did you mean EarlyStopp"),
    "in its module": (["--trainer.callbacks=tests.engine.test_advice.Nedy"], "Did you mean Needy?"),
    "in a list": (
        ["--trainer.callbacks", '[{"class_path": "LearningRateMonitr"}]'],
        "Did you mean LearningRateMonitor?",
    ),
    "mistyped module": (["--trainer.callbacks=tests.engine.test_advise.Needy"], "Did you mean test_advice?"),
    "of another package": (
        ["--trainer.callbacks=torch.optim.EarlyStopping"],
        "Did you mean lightning.pytorch.callbacks.EarlyStopping?",
    ),
    "logger": (["--trainer.logger=CSVLoger"], "Did you mean CSVLogger?"),
    "a word among words": (["--model.activation=softmaxx"], "Did you mean softmax?"),
    "no list": (["--trainer.callbacks=3"], "there is no '3'. Write the path of a class"),
    "element of a list": (
        ["--trainer.callbacks", NEEDY, "--trainer.callbacks.every=1", "--trainer.callbacks.sizes=[a]"],
        "trainer.callbacks.sizes: expected",
    ),
    "list for a dict": (
        ["--trainer.callbacks", NEEDY, "--trainer.callbacks.every=1", "--trainer.callbacks.names=[1]"],
        "trainer.callbacks.names: expected dict[str, int] or null; got '[1]'",
    ),
    "metrics without names": (
        ["--model.metrics=BinaryAccuracy"],
        "model.metrics: expected dict[str, Metric] or null; got 'BinaryAccuracy'",
    ),
    "mistyped argument": (
        ["--trainer.callbacks", NEEDY, "--trainer.callbacks.evry=2"],
        "Option 'evry' is not accepted by Needy. Did you mean every?",
    ),
    "argument of another class": (
        ["--model.optimizer=SGD", "--model.optimizer.xyz=1"],
        "Option 'xyz' is not accepted by SGD. It takes",
    ),
    "a number for a class": (["--model.optimizer=3"], "there is no '3'. Write the path of a class"),
    "a class of another kind": (
        ["--model.optimizer=torch.optim.lr_scheduler.StepLR"],
        "torch.optim.lr_scheduler.StepLR is no Optimizer",
    ),
    "an argument before its class": (["--model.scheduler.step_size=3"], "Name the class first"),
    "text for a metric": (["--model.metrics.acc=3"], "model.metrics: there is no '3'"),
    "text for a share": (["--trainer.limit_val_batches=x"], "expected int or float or null; got 'x'"),
    "what is always so": (["--weights_only", "false"], "weights_only: there is no such option"),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_is_wrong_is_told_in_one_line(cli, name):
    options, hint = WRONG[name]
    done = cli(*FIT, *options)
    assert done.code == 1
    assert hint in done.err
    assert len([line for line in done.err.splitlines() if not line.startswith("note: ")]) == 1


REFUSED = {
    "word": (
        ["EarlyStopping", "monitor=val/loss", "mode=minimum"],
        "EarlyStopping: `mode` can be min, max, got minimum",
    ),
    "number": (["GradientAccumulationScheduler", "scheduling={}"], "Empty dict cannot be interpreted correct"),
    "package": (["RichProgressBar"], "requires `rich`"),
}


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=pytest.mark.skipif(name == "package" and RICH, reason="rich is installed"))
        for name in REFUSED
    ],
)
def test_a_callback_of_a_library_that_refuses_is_one_line(cli, name):
    (kind, *arguments), hint = REFUSED[name]
    done = cli(*FIT, f"--trainer.callbacks={kind}", *(f"--trainer.callbacks.{argument}" for argument in arguments))
    assert done.code == 1
    assert hint in done.err
    assert len([line for line in done.err.splitlines() if "Seed set" not in line]) == 1


@pytest.mark.slow
@pytest.mark.parametrize(
    ("net", "hidden", "last"),
    [
        (EVEN, 3, "ValueError: hidden=3 must be even"),
        ("tests.xor.XorMLP", -3, "RuntimeError: Trying to create tensor with negative dimension -3: [-3, 2]"),
    ],
)
def test_a_users_own_constructor_keeps_its_traceback_and_nothing_of_the_parsers(tmp_path, net, hidden, last):
    done = run_process(*FIT, "--model.net", net, f"--model.net.hidden={hidden}", cwd=tmp_path)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-2:] == [last, f"from {net}(hidden={hidden})"]
    assert "in __init__" in done.stderr
    assert "jsonargparse" not in done.stderr
    assert len(done.stderr.splitlines()) < 45


def too_wide(hidden: int = 4) -> XorMLP:
    """A function that makes a net, with a bug."""
    raise ValueError(f"{hidden} is too wide")


@pytest.mark.slow
def test_a_users_own_function_keeps_its_traceback_too(tmp_path):
    done = run_process(*FIT, "--model.net", f"{__name__}.too_wide", "--model.net.hidden=7", cwd=tmp_path)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == "ValueError: 7 is too wide"
    assert "in too_wide" in done.stderr
    assert "Given value" not in done.stderr
    assert len(done.stderr.splitlines()) < 45


def test_an_early_stopping_that_watches_nothing_is_one_line(cli):
    watch = ("--trainer.callbacks=EarlyStopping", "--trainer.callbacks.monitor=val/los")
    done = cli(*FIT, *watch)
    assert done.code == 1
    assert "any of the following: `val/loss`, `val/acc`, `train/loss`" in done.err
    assert "Traceback" not in done.err


def test_the_help_promises_only_what_works(cli):
    for verb in ("fit", "test"):
        out = " ".join(cli(verb, "--help").out.split())
        assert "A checkpoint of a run, or the run's folder, which stands for its last.ckpt." in out
        for word in ("weights_only", "hpc", "URL", "'registry'"):
            assert word not in out
