import pytest
import torch
from lightning.pytorch import Trainer
from torch import nn
from torchmetrics import MeanAbsoluteError
from torchmetrics.classification import BinaryAccuracy, MulticlassAccuracy

from src.data.loader import TensorLoader
from src.module import LitModule


class Same(nn.Module):
    """Returns its input, plus a parameter of 0 that an optimizer can hold."""

    def __init__(self):
        super().__init__()
        self.zero = nn.Parameter(torch.zeros(()))

    def forward(self, x):
        return x + self.zero


def sgd(parameters):
    return torch.optim.SGD(parameters, lr=0.0)


def trainer(**options):
    quiet = {
        "logger": False,
        "enable_progress_bar": False,
        "enable_checkpointing": False,
        "enable_model_summary": False,
    }
    return Trainer(accelerator="cpu", devices=1, **quiet | options)


def test_accuracy_is_right_when_all_logits_lie_between_0_and_1():
    # As probabilities 0.2 and 0.4 would be a "no"; as logits they are a "yes".
    logits, target = torch.tensor([[0.2], [0.4], [0.9], [0.6]]), torch.tensor([[1.0], [1.0], [1.0], [0.0]])
    module = LitModule(Same(), nn.BCEWithLogitsLoss(), sgd, {"acc": BinaryAccuracy()})
    (result,) = trainer().test(module, TensorLoader((logits, target), 2), verbose=False)
    assert result["test/acc"] == 0.75


def test_means_weigh_each_sample_the_same_also_in_a_smaller_last_batch():
    x, target = torch.tensor([[0.0], [0.0], [0.0], [0.0], [10.0]]), torch.zeros(5, 1)
    module = LitModule(Same(), nn.MSELoss(), sgd, {"mae": MeanAbsoluteError()})
    (result,) = trainer().test(module, TensorLoader((x, target), 2), verbose=False)
    assert result["test/loss"] == pytest.approx(20.0)
    assert result["test/mae"] == pytest.approx(2.0)


def test_train_loss_is_the_mean_over_the_epoch():
    x, target = torch.tensor([[0.0], [0.0], [0.0], [0.0], [10.0]]), torch.zeros(5, 1)
    module, fit = LitModule(Same(), nn.MSELoss(), sgd), trainer(max_epochs=2)
    fit.fit(module, TensorLoader((x, target), 2))
    assert fit.callback_metrics["train/loss"] == pytest.approx(20.0)


def test_cross_entropy_gives_probabilities_and_the_right_accuracy():
    logits = torch.tensor([[2.0, 1.0, 0.0], [0.0, 3.0, 0.0], [0.0, 0.0, 1.0]])
    module = LitModule(Same(), nn.CrossEntropyLoss(), sgd, {"acc": MulticlassAccuracy(3, average="micro")})
    assert torch.allclose(module.scores(logits).sum(dim=1), torch.ones(3))
    (result,) = trainer().test(module, TensorLoader((logits, torch.tensor([0, 1, 0])), 2), verbose=False)
    assert result["test/acc"] == pytest.approx(2 / 3)


def test_a_regression_predicts_its_values():
    module = LitModule(Same(), nn.MSELoss(), sgd)
    values = torch.tensor([[3.5], [-2.0]])
    assert torch.equal(module.scores(values), values)


@pytest.mark.parametrize(("epochs", "batch_size", "accumulate", "steps"), [(2, 2, 1, 6), (3, 5, 1, 3), (2, 1, 2, 6)])
def test_total_steps_of_a_scheduler_left_null_become_those_of_the_run(epochs, batch_size, accumulate, steps):
    import functools

    schedule = functools.partial(torch.optim.lr_scheduler.OneCycleLR, max_lr=0.1, total_steps=None)
    module = LitModule(Same(), nn.MSELoss(), sgd, scheduler=schedule, scheduler_interval="step")
    data = TensorLoader((torch.zeros(5, 1), torch.zeros(5, 1)), batch_size)
    fit = trainer(max_epochs=epochs, accumulate_grad_batches=accumulate)
    fit.fit(module, data)
    (config,) = fit.lr_scheduler_configs
    assert config.scheduler.total_steps == fit.global_step == steps


def test_a_scheduler_with_its_own_total_steps_keeps_them():
    import functools

    schedule = functools.partial(torch.optim.lr_scheduler.OneCycleLR, max_lr=0.1, total_steps=99)
    module = LitModule(Same(), nn.MSELoss(), sgd, scheduler=schedule, scheduler_interval="step")
    fit = trainer(max_epochs=1)
    fit.fit(module, TensorLoader((torch.zeros(5, 1), torch.zeros(5, 1)), 2))
    assert fit.lr_scheduler_configs[0].scheduler.total_steps == 99


def test_a_mean_over_many_batches_of_half_precision_is_exact():
    x = torch.full((1_000, 1), 2.0, dtype=torch.bfloat16)
    module = LitModule(Same().bfloat16(), nn.MSELoss(), sgd)
    (result,) = trainer().test(module, TensorLoader((x, x + 3), 1), verbose=False)
    assert result["test/loss"] == 9.0


def test_a_metric_named_loss_is_refused():
    with pytest.raises(ValueError, match=r"val/loss is the loss itself. Give the metric another name"):
        LitModule(Same(), nn.MSELoss(), sgd, metrics={"loss": MeanAbsoluteError()})


def test_smoothed_targets_count_as_the_class_that_they_are_near_to():
    module = LitModule(Same(), nn.BCEWithLogitsLoss(), sgd, metrics={"acc": BinaryAccuracy()})
    x, target = torch.tensor([[3.0], [-3.0]]), torch.tensor([[0.9], [0.1]])
    (result,) = trainer().test(module, TensorLoader((x, target), 2), verbose=False)
    assert result["test/acc"] == 1.0


def test_predict_takes_x_alone_with_its_target_or_in_a_tuple():
    module, x = LitModule(Same(), nn.MSELoss(), sgd), torch.arange(6.0).reshape(3, 2)
    for batch in (x, (x,), (x, torch.zeros(3))):
        assert torch.equal(module.predict_step(batch, 0), x)
