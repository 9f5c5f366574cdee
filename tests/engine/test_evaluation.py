"""Metrics: each with its own counts, fed as its kind wants, for each data set, watched in the right direction."""

import pytest
import torch
from lightning.pytorch import LightningDataModule
from torch import nn
from torch.utils.data import DataLoader, TensorDataset
from torchmetrics import MeanSquaredError
from torchmetrics.classification import (
    BinaryAccuracy,
    MulticlassAccuracy,
    MulticlassConfusionMatrix,
    MulticlassF1Score,
    MultilabelExactMatch,
    MultilabelRecall,
)
from torchmetrics.wrappers import ClasswiseWrapper

from src.data.loader import TensorLoader
from src.engine.errors import UserError
from src.module import LitModule
from tests.stopping import config, fit, rows
from tests.test_module import Same, sgd, trainer

LOGITS = torch.tensor([[4.0], [4.0], [0.5], [0.5]])
TARGET = torch.tensor([[1.0], [1.0], [0.0], [0.0]])
GENERATOR = torch.Generator().manual_seed(0)
X, CLASSES = torch.randn(40, 4, generator=GENERATOR), torch.randint(0, 4, (40,), generator=GENERATOR)


def results(module, x, target, batch_size):
    (result,) = trainer().test(module, TensorLoader((x, target), batch_size), verbose=False)
    return result


def test_metrics_keep_their_own_counts():
    thresholds = {"acc": 0.5, "strict": 0.9, "middle": 0.7}
    metrics = {name: BinaryAccuracy(threshold=threshold) for name, threshold in thresholds.items()}
    result = results(LitModule(Same(), nn.BCEWithLogitsLoss(), sgd, metrics), LOGITS, TARGET, 2)
    for name, threshold in thresholds.items():
        right = (LOGITS.sigmoid() > threshold).float() == TARGET
        assert result[f"test/{name}"] == right.float().mean(), name


class Named(LightningDataModule):
    class_names = ("cat", "dog", "fox", "owl")

    def train_dataloader(self):
        return DataLoader(TensorDataset(X, CLASSES), 8)

    val_dataloader = test_dataloader = train_dataloader


def test_a_metric_has_a_number_for_each_class_and_a_matrix_is_refused():
    def validate(**metrics):
        validating = trainer()
        validating.validate(LitModule(Same(), nn.CrossEntropyLoss(), sgd, metrics), datamodule=Named(), verbose=False)
        return validating.callback_metrics

    f1 = MulticlassF1Score(4, average=None)
    assert {f"val/f1/{name}" for name in Named.class_names} <= validate(f1=f1).keys()
    with pytest.raises(UserError, match=r"Two numbers of val have the name val/f1/fox. Give the metric"):
        validate(**{"f1": f1, "f1/fox": MulticlassF1Score(4)})
    with pytest.raises(UserError, match=r"model.metrics.confusion computed \(4, 4\) int64\. .* see EvaluationPicture"):
        validate(confusion=MulticlassConfusionMatrix(4))


def test_each_metric_sees_the_target_that_its_kind_wants():
    target = (X > 0.3).float() * 0.8 + 0.1  # smoothed
    each = ClasswiseWrapper(MultilabelRecall(4, average=None), labels=list("abcd"))
    metrics = {"exact": MultilabelExactMatch(4), "recall": each, "brier": MeanSquaredError()}
    result = results(LitModule(Same(), nn.BCEWithLogitsLoss(), sgd, metrics), X, target, 7)
    whole, scores = (target > 0.5).int(), X.sigmoid()
    assert result["test/exact"] == pytest.approx(float(MultilabelExactMatch(4)(scores, whole)))
    recalls = [value for name, value in result.items() if name.startswith("test/recall/")]
    assert recalls == pytest.approx(MultilabelRecall(4, average=None)(scores, whole).tolist())
    assert result["test/brier"] == pytest.approx(float((scores - target).square().mean()))


def test_a_metric_of_classes_takes_probabilities_for_the_likeliest_class():
    module = LitModule(Same(), nn.CrossEntropyLoss(), sgd, {"acc": MulticlassAccuracy(4, average="micro")})
    result = results(module, X, nn.functional.one_hot(CLASSES, 4) * 0.8 + 0.05, 7)
    assert result["test/acc"] == pytest.approx(float((X.argmax(dim=1) == CLASSES).float().mean()))


@pytest.mark.parametrize("form", [dict, list])
def test_several_data_sets_have_their_own_numbers(form):
    parts = {"day": (X[:11], CLASSES[:11]), "night": (X[11:], CLASSES[11:])}
    parts = parts if form is dict else dict(enumerate(parts.values()))
    expected = {}
    for name, (x, target) in parts.items():
        numbers = {"loss": nn.functional.cross_entropy(x, target), "acc": (x.argmax(dim=1) == target).float().mean()}
        plain = {f"val/{metric}": float(value) for metric, value in numbers.items()}
        expected = plain | expected | {f"{metric}/{name}": value for metric, value in plain.items()}
    loaders = {name: TensorLoader(part, 4) for name, part in parts.items()}
    module = LitModule(Same(), nn.CrossEntropyLoss(), sgd, {"acc": MulticlassAccuracy(4, average="micro")})
    validating = trainer()
    for _ in range(2):  # the counts of one validation are not those of the next
        validating.validate(module, loaders if form is dict else list(loaders.values()), verbose=False)
        assert {name: float(value) for name, value in validating.callback_metrics.items()} == pytest.approx(expected)


PLATEAU, METRIC = "lightning.pytorch.cli.ReduceLROnPlateau", {"monitor": "val/mae", "mode": "max"}
LOSS = {"monitor": "val/loss"}
EARLY = {"class_path": "lightning.pytorch.callbacks.EarlyStopping", "init_args": METRIC}
WATCHERS = {
    "stop": (config(callbacks=(EARLY,)), "EarlyStopping watches val/mae with mode: max. Set mode: min."),
    "plateau": (config(scheduler=(PLATEAU, METRIC)), "watches val/mae with mode: max. Set mode: min."),
    "plateau of steps": (config(scheduler=(PLATEAU, LOSS), interval="step"), "Set the scheduler's interval to epoch"),
    "torch's plateau": (config(scheduler=("torch.optim.lr_scheduler.ReduceLROnPlateau", {})), "Name lightning.pytorch"),
}


@pytest.mark.parametrize(("experiment", "told"), WATCHERS.values(), ids=WATCHERS.keys())
def test_what_watches_a_number_wrongly_is_rejected_before_the_first_step(experiment, told, tmp_path, capfd):
    run = fit(tmp_path, experiment)
    assert told in capfd.readouterr().err
    assert rows(run) == []


def test_a_function_as_a_metric_is_rejected():
    with pytest.raises(UserError, match=r"model.metrics: .* It takes objects of torchmetrics.Metric by name"):
        LitModule(Same(), nn.MSELoss(), sgd, {"a": torch.mean})
