"""Tensors in YAML, as numbers: in a file, on the command line, in a checkpoint's config, in a notebook."""

import pytest
import torch
import yaml
from torch import Tensor, nn

from src.engine.config.yaml_types import to_numbers, to_tensor
from src.module import LitModule
from tests import stopping
from tests.conftest import PROJECT
from tests.copies import python


class Signs(stopping.Sums):
    """Whether the sum is positive."""

    def __init__(self, batch_size: int = 4) -> None:
        super().__init__(batch_size)
        self.data = (self.data[0], (self.data[1] > 0).float())


WHOLE = torch.tensor([0, 7])


class Needy(nn.MSELoss):
    """Must be told a tensor, and has one of whole numbers by default."""

    def __init__(self, scale: Tensor, classes: Tensor = WHOLE) -> None:
        super().__init__()
        self.scale, self.classes = scale, classes

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        assert self.classes.dtype == torch.int64
        assert torch.equal(self.classes, WHOLE)
        return super().forward(logits, target) * self.scale


@pytest.fixture
def signs(tmp_path):
    """The options of a fit whose loss is yet to be given its weight."""
    experiment = stopping.config(max_epochs=1)
    experiment["data"] = {"class_path": f"{__name__}.Signs"}
    experiment["model"] |= {"loss": {"class_path": "torch.nn.BCEWithLogitsLoss"}, "metrics": None}
    (tmp_path / "signs.yaml").write_text(yaml.safe_dump(experiment))
    (tmp_path / "weight.yaml").write_text("model: {loss: {init_args: {pos_weight: [0.1]}}}")
    return ("fit", "--config", "signs.yaml")


def saved(number=0):
    return torch.load(f"runs/sums/version_{number}/checkpoints/last.ckpt", weights_only=True)


def test_a_weight_in_yaml_is_the_one_on_the_command_line_and_not_none(cli, signs):
    for weight in (["--config", "weight.yaml"], ["--model.loss.pos_weight", "[0.1]"], []):
        done = cli(*signs, *weight)
        assert done.code == 0, done.err
    yaml_run, option, without = (saved(number)["state_dict"] for number in range(3))
    assert stopping.differences(yaml_run, option) == []
    assert torch.equal(yaml_run["loss.pos_weight"], torch.tensor([0.1]))
    assert not torch.equal(yaml_run["net.0.weight"], without["net.0.weight"])


def test_the_checkpoint_alone_has_the_weight_for_a_test_a_resume_and_a_notebook(cli, signs):
    assert cli(*signs, "--config", "weight.yaml", "--trainer.max_epochs=2").code == 0
    assert cli(*signs, "--config", "weight.yaml").code == 0
    validated = cli("validate", "--ckpt_path", "runs/sums/version_0")
    assert validated.code == 0, validated.err
    module = LitModule.load_from_checkpoint("runs/sums/version_0")
    x, target = (part[48:] for part in Signs().data)
    assert torch.equal(module.loss.pos_weight, torch.tensor([0.1]))
    by_hand = nn.functional.binary_cross_entropy_with_logits(module(x), target, pos_weight=torch.tensor([0.1]))
    assert validated.metrics["val/loss"] == pytest.approx(by_hand.item(), rel=1e-5)
    assert cli("fit", "--ckpt_path", "runs/sums/version_1", "--trainer.max_epochs=2").code == 0
    whole, resumed = (saved(number)["state_dict"] for number in range(2))
    assert stopping.differences(whole, resumed) == []


@pytest.mark.slow
def test_a_notebook_of_its_own_loads_it(cli, signs, tmp_path):
    # A net of torch's: one of these tests would import the command line along.
    net = ["--model.net=torch.nn.Linear", "--model.net.in_features=4", "--model.net.out_features=1"]
    assert cli(*signs, "--config", "weight.yaml", *net).code == 0
    code = "from src.module import LitModule; print(LitModule.load_from_checkpoint({!r}).loss.pos_weight)"
    done = python("-c", code.format(str(tmp_path / "runs/sums/version_0")), cwd=PROJECT)
    assert done.stdout.strip() == "tensor([0.1000])", done.stderr


def test_an_argument_that_must_be_a_tensor_and_one_with_a_default_of_whole_numbers(cli, signs):
    done = cli(*signs, f"--model.loss={__name__}.Needy", "--model.loss.scale=2")
    assert done.code == 0, done.err
    assert saved()["config"]["model"]["init_args"]["loss"]["init_args"]["scale"] == 2.0
    done = cli("test", "--ckpt_path", "runs/sums/version_0")
    assert done.code == 0, done.err


VALUES = [[0.1, -2.5e-7, 3], 4, [[1, 2], [3, 4.5]], [], [float("inf"), 1e-45, -0.0]]


@pytest.mark.parametrize("value", VALUES, ids=str)
def test_numbers_become_float32_and_come_back_to_the_bit(value):
    tensor = to_tensor(value)
    assert tensor.dtype == torch.float32
    assert stopping.differences(to_tensor(to_numbers(tensor)), tensor) == []


def test_a_tensor_of_another_dtype_is_not_written():
    with pytest.raises(ValueError, match="int64"):
        to_numbers(WHOLE)


def test_what_is_written_is_as_short_as_what_was_read():
    assert str(to_numbers(to_tensor([0.1, 0.3]))) == "[0.1, 0.3]"


WRONG = {
    "a word": "heavy",
    "words": "[a, b]",
    "names": "{a: 1}",
    "unequal lists": "[[1], [2, 3]]",
}


@pytest.mark.parametrize("value", WRONG.values(), ids=WRONG.keys())
@pytest.mark.parametrize("option", ["pos_weight", "scale"])
def test_what_is_no_number_is_one_clear_line(cli, signs, option, value):
    loss = [f"--model.loss={__name__}.Needy"] if option == "scale" else []
    done = cli(*signs, *loss, f"--model.loss.{option}={value}")
    assert done.code == 1
    (line,) = [line for line in done.err.splitlines() if "Seed set" not in line]
    assert line.startswith(f"error: model.loss.{option}: ")


def test_a_learning_rate_that_is_none_asks_for_a_number_alone(cli, signs):
    done = cli(*signs, "--model.optimizer.lr=fast")
    assert done.err.endswith("error: model.optimizer.lr: expected float; got 'fast'\n")
