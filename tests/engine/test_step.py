"""What a batch, a loss, a step and a metric may be, and which are refused."""

from types import SimpleNamespace

import pytest
import torch
import torchmetrics
from lightning.pytorch import LightningDataModule
from lightning.pytorch.callbacks import LambdaCallback
from torch import nn
from torch.utils.data import DataLoader, TensorDataset
from torchmetrics import MeanSquaredError, classification
from torchmetrics.wrappers import ClasswiseWrapper

from src.data.loader import TensorLoader
from src.engine.data.batches import count_samples, take_apart
from src.engine.errors import UserError
from src.module import LitModule, StepOutput
from tests.stopping import config, early_stopping, write
from tests.test_module import Same, sgd, trainer


def accuracy(num_classes):
    return {"acc": classification.MulticlassAccuracy(num_classes, average="micro")}


def results(module, x, target, batch_size=5):
    (result,) = trainer().test(module, TensorLoader((x, target), batch_size), verbose=False)
    return result


def test_a_batch_is_taken_apart_and_counted():
    x, y = torch.zeros(2, 3), torch.ones(2)
    batch = {"input_ids": x, "attention_mask": y, "labels": y, "names": ["a", "b"]}
    assert take_apart(batch) == ({"input_ids": x, "attention_mask": y}, y)
    objects = SimpleNamespace(x=torch.zeros(7, 1), y=None)
    assert [count_samples(each) for each in (batch, {"names": ["a", "b", "c"]}, objects)] == [2, 3, 7]
    assert count_samples([{"boxes": ["a", "b"]}, torch.zeros(6)]) == 6


X = torch.randn(16, 3, generator=torch.Generator().manual_seed(0))
CLASSES = torch.arange(16) % 3
IMAGES = torch.randn(13, 3, 2, 2, generator=torch.Generator().manual_seed(1))
PIXELS = (torch.arange(52) % 4).reshape(13, 2, 2)  # class 3 is none


class SumOverWeight(nn.Module):
    def forward(self, values, target):
        weight = 1 + target.abs()
        return (weight * (values - target).square()).sum(), weight.sum()


class Parts(nn.Module):
    def forward(self, values, target):
        mse, l1 = (values - target).square().mean(), (values - target).abs().mean()
        return {"loss": mse + l1, "mse": mse, "l1": l1}


LOSSES = {
    "weights": (nn.NLLLoss(weight=torch.tensor([1.0, 5.0, 16.0])), X, CLASSES),
    "ignored and weights": (nn.CrossEntropyLoss(ignore_index=3, weight=torch.tensor([1.0, 2.0, 3.0])), IMAGES, PIXELS),
    "pos_weight": (nn.BCEWithLogitsLoss(pos_weight=torch.tensor([1.0, 5.0, 16.0])), X, (X > 0).float()),
    "probabilities": (nn.CrossEntropyLoss(), X, X.exp().softmax(dim=1)),
    "sum and weight": (SumOverWeight(), X, X + 2),
    "parts": (Parts(), X, X.square()),
}


@pytest.mark.parametrize(("loss", "x", "target"), LOSSES.values(), ids=LOSSES.keys())
def test_the_logged_loss_is_that_of_all_samples(loss, x, target):
    module, fitting, loader = LitModule(Same(), loss, sgd), trainer(max_epochs=1), TensorLoader((x, target), 5)
    (tested,) = trainer().test(module, loader, verbose=False)
    fitting.fit(module, loader)
    whole = StepOutput(loss(x, target), 1)
    for name, mean in {"loss": whole.loss, **whole.parts}.items():
        assert tested[f"test/{name}"] == pytest.approx(float(mean), rel=1e-6)
        assert float(fitting.callback_metrics[f"train/{name}"]) == pytest.approx(float(mean), rel=1e-6)


def test_metrics_need_an_activation():
    module = LitModule(Same(), Parts(), sgd, metrics={"mse": MeanSquaredError()})
    told = r"Parts does not say what turns the outputs into scores. Set --model.activation sigmoid"
    with pytest.raises(UserError, match=told):
        results(module, X, X, 4)
    assert torch.equal(module.predict_step(X, 0)["logits"], X)


def test_a_known_loss_has_its_activation():
    known = {
        nn.BCEWithLogitsLoss: X.sigmoid(),
        nn.CrossEntropyLoss: X.softmax(dim=1),
        nn.NLLLoss: X.exp(),
        nn.L1Loss: X,
    }
    for loss, scores in known.items():
        assert torch.equal(LitModule(Same(), loss(), sgd).scores(X), scores)
    # A net that computes its loss gives the classes of images second.
    scores = LitModule(Same(), None, sgd, activation="softmax").scores(IMAGES)
    assert torch.allclose(scores.sum(dim=1), torch.ones(1))


class OwnSteps(LitModule):
    def training_step(self, batch, batch_idx):
        loss = nn.functional.mse_loss(self.net(batch[0]), batch[1])
        self.log("train/loss", loss, on_epoch=True, on_step=False)
        return loss

    def validation_step(self, batch, batch_idx):
        super().validation_step(batch, batch_idx)
        self.log("val/loss", torch.tensor(7.0))


def test_steps_of_ones_own_log_their_own_numbers():
    module = OwnSteps(Same(), nn.MSELoss(), sgd, metrics={"mse": MeanSquaredError()})
    fitting, loader = trainer(max_epochs=1), TensorLoader((X, X + 2), 4)
    fitting.fit(module, loader, loader)
    logged = {name: float(value) for name, value in fitting.callback_metrics.items()}
    assert logged == {"train/loss": pytest.approx(4.0), "val/loss": 7.0, "val/mse": pytest.approx(4.0)}


class Tokens(nn.Module):
    """Scores tokens and computes its loss, as nets of Hugging Face do; those of a language model look one ahead."""

    def __init__(self, num_classes: int, ahead: int = 0):
        super().__init__()
        self.embed = nn.Embedding(9, num_classes)
        self.ahead = ahead

    def forward(self, input_ids, labels=None):
        logits, loss = self.embed(input_ids), None
        if labels is not None:
            pairs = logits[:, : logits.shape[1] - self.ahead], labels[:, self.ahead :]
            loss = nn.functional.cross_entropy(pairs[0].flatten(0, 1), pairs[1].flatten())
        return SimpleNamespace(loss=loss, logits=logits)


def sentences(num_classes: int) -> list[dict]:
    """Five batches of two sentences each, of several lengths, padded with labels of -100; one of padding alone."""
    generator = torch.Generator().manual_seed(1)
    made = []
    for length in (7, 3, 5, 4, 6):
        ids = torch.randint(0, 9, (2, length), generator=generator)
        labels = torch.randint(0, num_classes, (2, length), generator=generator)
        labels[1, length // 2 :] = -100
        made.append({"input_ids": ids, "labels": labels})
    made[2]["labels"][:] = -100
    return made


@pytest.mark.parametrize(("num_classes", "ahead"), [(3, 0), (7, 1)])  # 7 is a length, too
def test_the_loss_of_a_net_is_weighted_by_its_labels(num_classes, ahead):
    torch.manual_seed(0)
    net, batches = Tokens(num_classes, ahead), sentences(num_classes)
    logits = torch.cat([net(b["input_ids"]).logits[:, : b["labels"].shape[1] - ahead].flatten(0, 1) for b in batches])
    labels = torch.cat([b["labels"][:, ahead:].flatten() for b in batches])
    metrics = {
        "acc": classification.MulticlassAccuracy(num_classes, average="micro"),
        "perplexity": torchmetrics.text.Perplexity(),
        "f1": ClasswiseWrapper(classification.MulticlassF1Score(num_classes, average=None)),
    }
    module = LitModule(net, None, sgd, metrics, activation="softmax")
    (result,) = trainer().test(module, DataLoader(batches, batch_size=None), verbose=False)
    loss, kept = nn.functional.cross_entropy(logits, labels).detach(), labels != -100
    assert result["test/loss"] == pytest.approx(float(loss), rel=1e-6)
    assert result["test/perplexity"] == pytest.approx(float(loss.exp()), rel=1e-5)
    assert result["test/acc"] == pytest.approx(float((logits.argmax(1) == labels)[kept].float().mean()))
    f1 = classification.MulticlassF1Score(num_classes, average="none")(logits[kept], labels[kept])
    assert [value for name, value in result.items() if "/f1/" in name] == pytest.approx(f1.tolist())
    fitting = trainer(max_epochs=1)
    fitting.fit(module, DataLoader(batches, batch_size=None))
    assert float(fitting.callback_metrics["train/loss"]) == pytest.approx(float(loss), rel=1e-6)


def test_of_a_net_that_has_a_loss_the_logits_alone_are_used_with_another_loss():
    batch = {"input_ids": torch.arange(3)[None], "labels": torch.zeros(1, 3, 3)}
    output = LitModule(Tokens(3), nn.MSELoss(), sgd).step(batch)
    assert torch.equal(output.loss, output.outputs.square().mean())


class TokenLoss(nn.Module):
    def forward(self, logits, target):
        return nn.functional.cross_entropy(logits.flatten(0, 1), target.flatten())


def test_softmax_over_the_wrong_dimension_is_refused():
    x, target = torch.randn(4, 5, 3), torch.randint(0, 3, (4, 5))
    module = LitModule(Same(), TokenLoss(), sgd, accuracy(3), activation="softmax")
    with pytest.raises(UserError, match=r"torch.nn.Softmax and --model.activation.init_args.dim -1"):
        results(module, x, target, 2)
    module = LitModule(Same(), TokenLoss(), sgd, accuracy(3), activation=nn.Softmax(dim=-1))
    result = results(module, x, target, 2)
    assert result["test/acc"] == pytest.approx(float((x.argmax(dim=2) == target).float().mean()))


def test_metrics_leave_out_what_the_loss_leaves_out():
    module = LitModule(Same(), nn.CrossEntropyLoss(ignore_index=3), sgd, accuracy(3))
    (result,) = trainer().test(module, TensorLoader((IMAGES, PIXELS.where(PIXELS > 0, 3)), 5), verbose=False)
    kept = (PIXELS > 0) & (PIXELS < 3)
    assert result["test/acc"] == pytest.approx(float((IMAGES.argmax(dim=1) == PIXELS)[kept].float().mean()))
    own = {"acc": classification.MulticlassAccuracy(3, ignore_index=0)}
    assert LitModule(Same(), None, sgd, own).metrics["acc"].ignore_index == 0


class NoLoss(Same):
    def forward(self, x, **rest):
        return super().forward(x)


ROW, IDS = torch.zeros(1, 2), {"input_ids": torch.arange(3)[None]}
UNCLEAR = {
    "no mean": (Same(), nn.MSELoss(reduction="sum"), (X, X), r"model.loss.reduction='sum'.*returns \(sum, weight\)"),
    "no target": (Same(), nn.MSELoss(), ROW, r"no target .* It was \(1, 2\) float32. Say in LitModule.step\("),
    "three parts": (Same(), nn.MSELoss(), (ROW, ROW, ROW), "has 3 parts"),
    "two targets": (Same(), nn.MSELoss(), {"x": ROW, "y": ROW, "label": 1}, "has label and y"),
    "stretched": (Same(), nn.L1Loss(), (ROW, torch.zeros(1)), r"L1Loss has shape \(1,\); .* outputs, \(1, 2\)"),
    "negative": (Same(), nn.CrossEntropyLoss(), (ROW, torch.tensor([[-2.0, 3.0]])), "no probabilities.*int64"),
    "a sum of 2": (Same(), nn.CrossEntropyLoss(), (ROW, torch.ones(1, 2)), "no probabilities"),
    "labels left out": (Tokens(3), None, IDS, "Tokens has to return an object with loss and log"),
    "no loss": (NoLoss(), None, {"x": X, "labels": CLASSES}, r"it returned \(16, 3\) float32"),
    "no dict": (NoLoss(), None, (X, CLASSES), r"has to be a dict of the net's keywords. It was x \(16, 3\)"),
}


@pytest.mark.parametrize(("net", "loss", "batch", "problem"), UNCLEAR.values(), ids=UNCLEAR.keys())
def test_a_loss_or_a_batch_of_which_no_mean_is_known_is_refused(net, loss, batch, problem):
    with pytest.raises(UserError, match=problem):
        LitModule(net, loss, sgd).step(batch)


class Returns(LitModule):
    def __init__(self, make, metrics=None):
        super().__init__(Same(), nn.MSELoss(), sgd, metrics)
        self.make = make

    def step(self, batch):
        x, y = batch
        return self.make((self.net(x) - y).square().mean(), x)


RETURNED = {
    "nothing": (lambda loss, x: None, "step returned NoneType. Let it return.*StepOutput"),
    "a tuple": (lambda loss, x: (loss, x), "step returned x .* float32, target .* float32. Let it return the loss"),
    "Lightning's dict": (lambda loss, x: {"loss": loss, "preds": x}, r"parts\['preds'\] is \(4, 3\) float32"),
    "many losses": (lambda loss, x: x, r"StepOutput: loss is \(4, 3\) float32"),
    "a mean as the number": (lambda loss, x: StepOutput(loss, 4.0), "StepOutput: num_samples is 4.0"),
    "a mask as the number": (lambda loss, x: StepOutput(loss, x > 0), r"num_samples is \(4, 3\) bool"),
    "a part called loss": (lambda loss, x: StepOutput(loss, 4, parts={"loss": loss}), "have the name val/loss"),
    "a part called mse": (lambda loss, x: StepOutput(loss, 4, x, x, {"mse": loss}), "have the name val/mse"),
    "no outputs": (lambda loss, x: loss, r"step of val gave no outputs for the metrics mse.*StepOutput\(loss"),
}


@pytest.mark.parametrize(("make", "problem"), RETURNED.values(), ids=RETURNED.keys())
def test_what_else_a_step_returns_is_refused_before_the_first_step(make, problem):
    run, loader = trainer(max_epochs=1, num_sanity_val_steps=1), TensorLoader((X, X), 4)
    with pytest.raises(UserError, match=problem):
        run.fit(Returns(make, {"mse": MeanSquaredError()}), loader, loader)
    assert run.global_step == 0


@pytest.mark.parametrize("count", [int, torch.tensor])
def test_a_batch_that_counts_for_nothing_changes_no_mean(count):
    def masked(loss, x):
        kept = x[:, 0] > 0
        return StepOutput(x[kept].mean(), count(kept.sum().item()))

    x = X.clone()
    x[4:8, 0] = -1
    (result,) = trainer().validate(Returns(masked), TensorLoader((x, x), 4), verbose=False)
    assert result["val/loss"] == pytest.approx(float(x[x[:, 0] > 0].mean()), rel=1e-6)


def test_a_training_step_on_padding_alone_has_a_loss_of_0():
    losses = []
    noting = LambdaCallback(on_before_backward=lambda trainer, module, loss: losses.append(float(loss)))
    module = Returns(lambda loss, x: StepOutput(loss + float("nan"), torch.tensor(0) if x[0, 0] > 0 else 0))
    trainer(max_epochs=1, callbacks=[noting]).fit(module, TensorLoader((X, X), 4))
    assert losses == [0.0] * 4


LOGITS = torch.tensor([[4.0], [4.0], [0.5], [0.5]])
TARGET = torch.tensor([[1.0], [1.0], [0.0], [0.0]])


def test_metrics_keep_their_own_counts():
    thresholds = {"acc": 0.5, "strict": 0.9, "middle": 0.7}
    metrics = {name: classification.BinaryAccuracy(threshold=threshold) for name, threshold in thresholds.items()}
    result = results(LitModule(Same(), nn.BCEWithLogitsLoss(), sgd, metrics), LOGITS, TARGET, 2)
    for name, threshold in thresholds.items():
        right = (LOGITS.sigmoid() > threshold).float() == TARGET
        assert result[f"test/{name}"] == right.float().mean(), name


class Named(LightningDataModule):
    class_names = ("cat", "dog", "fox")

    def train_dataloader(self):
        return DataLoader(TensorDataset(X, CLASSES), 8)

    val_dataloader = test_dataloader = train_dataloader


def test_a_metric_has_a_number_for_each_class_and_a_matrix_or_a_function_is_refused():
    def validate(**metrics):
        validating = trainer()
        validating.validate(LitModule(Same(), nn.CrossEntropyLoss(), sgd, metrics), datamodule=Named(), verbose=False)
        return validating.callback_metrics

    f1 = classification.MulticlassF1Score(3, average=None)
    assert {f"val/f1/{name}" for name in Named.class_names} <= validate(f1=f1).keys()
    with pytest.raises(UserError, match=r"Two numbers of val have the name val/f1/fox. Give the metric"):
        validate(**{"f1": f1, "f1/fox": classification.MulticlassF1Score(3)})
    with pytest.raises(UserError, match=r"Two numbers of val have the name val/loss. Give the metric"):
        validate(loss=classification.MulticlassF1Score(3))
    with pytest.raises(UserError, match=r"model.metrics.confusion computed \(3, 3\) int64\. .* see EvaluationPicture"):
        validate(confusion=classification.MulticlassConfusionMatrix(3))
    with pytest.raises(UserError, match=r"model.metrics: .* It takes objects of torchmetrics.Metric by name"):
        validate(mean=torch.mean)


def test_each_metric_sees_the_target_that_its_kind_wants():
    target = (X > 0.3).float() * 0.8 + 0.1  # smoothed
    each = ClasswiseWrapper(classification.MultilabelRecall(3, average=None), labels=list("abc"))
    metrics = {"exact": classification.MultilabelExactMatch(3), "recall": each, "brier": MeanSquaredError()}
    result = results(LitModule(Same(), nn.BCEWithLogitsLoss(), sgd, metrics), X, target, 7)
    whole, scores = (target > 0.5).int(), X.sigmoid()
    assert result["test/exact"] == pytest.approx(float(classification.MultilabelExactMatch(3)(scores, whole)))
    recalls = [value for name, value in result.items() if name.startswith("test/recall/")]
    assert recalls == pytest.approx(classification.MultilabelRecall(3, average=None)(scores, whole).tolist())
    assert result["test/brier"] == pytest.approx(float((scores - target).square().mean()))
    # Of probabilities a metric of classes takes the likeliest class.
    module = LitModule(Same(), nn.CrossEntropyLoss(), sgd, accuracy(3))
    result = results(module, X, nn.functional.one_hot(CLASSES, 3) * 0.7 + 0.1, 7)
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
    module = LitModule(Same(), nn.CrossEntropyLoss(), sgd, accuracy(3))
    validating = trainer()
    for _ in range(2):  # the counts of one validation are not those of the next
        validating.validate(module, loaders if form is dict else list(loaders.values()), verbose=False)
        assert {name: float(value) for name, value in validating.callback_metrics.items()} == pytest.approx(expected)


PLATEAU, METRIC = "lightning.pytorch.cli.ReduceLROnPlateau", {"monitor": "val/mae", "mode": "max"}
TORCHS, LOSS = "torch.optim.lr_scheduler.ReduceLROnPlateau", {"monitor": "val/loss"}
EARLY = early_stopping(**METRIC)
WATCHERS = {
    "stop": (config(callbacks=(EARLY,)), "EarlyStopping watches val/mae with mode: max. Set mode: min."),
    "plateau": (config(scheduler=(PLATEAU, METRIC)), "watches val/mae with mode: max. Set mode: min."),
    "plateau of steps": (config(scheduler=(PLATEAU, LOSS), interval="step"), "Set the scheduler's interval to epoch"),
    "torch's plateau": (config(scheduler=(TORCHS, {"mode": "max"})), "watches val/loss with mode: max. Set mode: min."),
    "checkpoint": (
        config() | {"checkpoint": {"monitor": "val/no"}},
        "'val/no' is not logged; there are val/loss, val/m",
    ),
    "no validation": (config(limit_val_batches=0) | {"checkpoint": METRIC}, "is not logged; there is no validation."),
}


@pytest.mark.parametrize(("experiment", "told"), WATCHERS.values(), ids=WATCHERS.keys())
def test_what_watches_a_number_wrongly_is_one_line_before_the_first_step(experiment, told, cli, tmp_path, monkeypatch):
    monkeypatch.setattr(LitModule, "training_step", lambda *_: pytest.fail("a step was taken"))
    done = cli("fit", "--config", write(tmp_path, experiment))
    assert done.code == 1
    assert told in done.err
    assert "Traceback" not in done.err
