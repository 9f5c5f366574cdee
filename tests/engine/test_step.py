"""What a batch, a loss and a step may be, and what is told where nobody can know."""

from types import SimpleNamespace

import pytest
import torch
import torchmetrics
import yaml
from lightning.pytorch import LightningDataModule
from torch import nn
from torch.utils.data import DataLoader, TensorDataset
from torchmetrics import MeanSquaredError
from torchmetrics.classification import MulticlassAccuracy, MulticlassF1Score
from torchmetrics.wrappers import ClasswiseWrapper

from src.data.loader import TensorLoader
from src.engine.data.batches import count_samples, take_apart
from src.engine.errors import UserError
from src.module import LitModule, StepOutput
from tests.processes import launch, processes, rows, weights
from tests.stopping import fit
from tests.test_module import Same, sgd, trainer


def test_what_goes_into_the_net_and_what_is_the_target():
    x, y = torch.zeros(2, 3), torch.ones(2)
    assert take_apart((x, y)) == (x, y)
    assert take_apart([x], needs_target=False) == (x, None)
    assert take_apart(x, needs_target=False) == (x, None)
    batch = {"input_ids": x, "attention_mask": y, "labels": y, "names": ["a", "b"]}
    assert take_apart(batch) == ({"input_ids": x, "attention_mask": y}, y)


@pytest.mark.parametrize(
    ("batch", "problem"),
    [
        (torch.zeros(2, 3), r"no target for the loss. It was \(2, 3\) float32"),
        ((torch.zeros(2), torch.zeros(2), torch.zeros(2)), r"has 3 parts, only \(x, target\) explains itself"),
        ({"x": torch.zeros(2)}, r"no target for the loss. It was x \(2,\) float32"),
        ({"x": torch.zeros(2), "y": torch.zeros(2), "label": 1}, "has label and y: which is the target"),
    ],
)
def test_a_batch_that_does_not_say_what_it_is_is_refused(batch, problem):
    with pytest.raises(UserError, match=rf"{problem}.*Say in LitModule.step\(\)"):
        take_apart(batch)


@pytest.mark.parametrize(
    ("batch", "number"),
    [
        ((torch.zeros(5, 2), torch.zeros(5)), 5),
        ({"a": torch.zeros(4, 2), "b": torch.zeros(4), "c": torch.zeros(())}, 4),
        (torch.zeros(3), 3),
        ([{"boxes": ["a", "b"]}, torch.zeros(6)], 6),
        ({"names": ["a", "b", "c"]}, 3),
        (SimpleNamespace(x=torch.zeros(7, 1), y=None), 7),
    ],
)
def test_the_samples_of_a_batch_are_counted(batch, number):
    assert count_samples(batch) == number


def test_a_loss_may_give_a_mean_a_sum_with_its_weight_or_its_parts():
    three, parts = torch.tensor(3.0), {"kl": torch.tensor(1.0), "mse": torch.tensor(2.0)}
    assert StepOutput(three, 4).num_samples == 4
    made = StepOutput((torch.tensor(6.0), 4), 2)
    assert (made.loss, made.num_samples) == (1.5, 4)
    made = StepOutput({"loss": three, **parts}, 4)
    assert (made.loss, made.num_samples, made.parts) == (three, 4, parts)


def test_a_net_that_returns_an_object_is_taken_at_its_word():
    class Pretrained(Same):
        def forward(self, input_ids, labels=None):
            logits = super().forward(input_ids)
            loss = None if labels is None else (logits.sum(dim=1) - labels).square().mean()
            return SimpleNamespace(loss=loss, logits=logits)

    x, y = torch.arange(6.0).reshape(3, 2), torch.tensor([1.0, 4.0, 9.0])
    module = LitModule(Pretrained(), None, sgd, activation="identity")
    output = module.step({"input_ids": x, "labels": y})
    assert (float(output.loss.detach()), output.num_samples) == (pytest.approx(1 / 3), 3)
    assert torch.equal(module.predict_step({"input_ids": x}, 0), x)
    # With a loss of one's own its logits alone are used.
    output = LitModule(Pretrained(), nn.MSELoss(), sgd).step({"input_ids": x, "labels": x + 2})
    assert output.loss == 4.0


@pytest.mark.parametrize("loss", [nn.MSELoss(), nn.L1Loss(), nn.SmoothL1Loss(), nn.HuberLoss()])
def test_a_target_that_torch_would_stretch_is_refused(loss):
    with pytest.raises(UserError, match=r"The target of \w+ has shape \(4,\); .* shape of the outputs, \(4, 1\)"):
        LitModule(Same(), loss, sgd).step((torch.zeros(4, 1), torch.zeros(4)))


@pytest.mark.parametrize("target", [[-2.0, 3.0], [1.0, 1.0]], ids=["values", "several classes"])
def test_numbers_that_are_no_probabilities_are_refused_by_cross_entropy(target):
    with pytest.raises(UserError, match=r"target of CrossEntropyLoss, \(1, 2\) float32, holds no probabilities.*int64"):
        LitModule(Same(), nn.CrossEntropyLoss(), sgd).step((torch.tensor([[3.0, 1.0]]), torch.tensor([target])))


def test_probabilities_are_targets_of_cross_entropy():
    target = torch.tensor([[0.9, 0.1], [0.2, 0.8]])
    metrics = {"acc": MulticlassAccuracy(2, average="micro")}
    module = LitModule(Same(), nn.CrossEntropyLoss(), sgd, metrics)
    x = torch.tensor([[3.0, 1.0], [3.0, 1.0]])
    (result,) = trainer().test(module, TensorLoader((x, target), 2), verbose=False)
    assert result["test/acc"] == 0.5
    assert result["test/loss"] == pytest.approx(float(nn.functional.cross_entropy(x, target)))


@pytest.mark.parametrize("reduction", ["sum", "none"])
def test_a_loss_that_is_no_mean_is_refused(reduction):
    with pytest.raises(UserError, match=rf"model.loss.reduction='{reduction}'.*returns \(sum, weight\)"):
        LitModule(Same(), nn.MSELoss(reduction=reduction), sgd)


X = torch.randn(16, 3, generator=torch.Generator().manual_seed(0))
CLASSES = torch.arange(16) % 3
IMAGES = torch.randn(13, 3, 2, 2, generator=torch.Generator().manual_seed(1))
PIXELS = (torch.arange(52) % 4).reshape(13, 2, 2)  # class 3 is none


@pytest.mark.parametrize("batch_size", [1, 3, 5, 13])
@pytest.mark.parametrize(
    ("loss", "x", "target"),
    [
        (nn.CrossEntropyLoss(weight=torch.tensor([1.0, 5.0, 16.0])), X, CLASSES),
        (nn.NLLLoss(weight=torch.tensor([1.0, 5.0, 16.0])), X, CLASSES),
        (nn.CrossEntropyLoss(ignore_index=3), IMAGES, PIXELS),
        (nn.CrossEntropyLoss(ignore_index=3, weight=torch.tensor([1.0, 2.0, 3.0])), IMAGES, PIXELS),
        (nn.BCEWithLogitsLoss(pos_weight=torch.tensor([1.0, 5.0, 16.0])), X, (X > 0).float()),
    ],
    ids=["weights", "nll", "ignored", "ignored and weights", "pos_weight"],
)
def test_the_logged_loss_is_that_of_all_samples_whatever_the_batches(loss, x, target, batch_size):
    module = LitModule(Same(), loss, sgd)
    (result,) = trainer().test(module, TensorLoader((x, target), batch_size), verbose=False)
    assert result["test/loss"] == pytest.approx(float(loss(x, target)), rel=1e-6)
    fitting = trainer(max_epochs=1)
    fitting.fit(module, TensorLoader((x, target), batch_size))
    assert float(fitting.callback_metrics["train/loss"]) == pytest.approx(float(loss(x, target)), rel=1e-6)


class SumOverWeight(nn.Module):
    """A loss of one's own: the sum, and what it is a sum over."""

    def forward(self, values, target):
        weight = 1 + target.abs()
        return (weight * (values - target).square()).sum(), weight.sum()


def test_a_loss_of_ones_own_that_gives_sum_and_weight():
    x, target = X[:, :1], X[:, 1:2]
    module = LitModule(Same(), SumOverWeight(), sgd, activation="identity")
    (result,) = trainer().test(module, TensorLoader((x, target), 4), verbose=False)
    total, weight = SumOverWeight()(x, target)
    assert result["test/loss"] == pytest.approx(float(total / weight), rel=1e-6)


def test_parts_of_the_loss_are_means_over_the_samples():
    class Parts(nn.Module):
        def forward(self, values, target):
            mse, l1 = (values - target).square().mean(), (values - target).abs().mean()
            return {"loss": mse + l1, "mse": mse, "l1": l1}

    x, target = X[:, :1], X[:, 1:2]
    module = LitModule(Same(), Parts(), sgd)
    (result,) = trainer().test(module, TensorLoader((x, target), 4), verbose=False)
    assert result["test/mse"] == pytest.approx(float((x - target).square().mean()), rel=1e-6)
    assert result["test/l1"] == pytest.approx(float((x - target).abs().mean()), rel=1e-6)
    assert result["test/loss"] == pytest.approx(result["test/mse"] + result["test/l1"], rel=1e-6)


class OwnLoss(nn.Module):
    def forward(self, values, target):
        return (values - target).square().mean()


def test_who_needs_scores_that_nobody_named_is_told():
    module = LitModule(Same(), OwnLoss(), sgd, metrics={"mse": MeanSquaredError()})
    told = r"OwnLoss does not say what turns the outputs into scores. Set --model.activation sigmoid"
    with pytest.raises(UserError, match=told):
        trainer().test(module, TensorLoader((X, X), 4), verbose=False)
    # A prediction is written all the same, under the name of what it is.
    assert torch.equal(module.predict_step(X, 0)["logits"], X)
    # Without a metric nobody needs them.
    trainer().test(LitModule(Same(), OwnLoss(), sgd), TensorLoader((X, X), 4), verbose=False)


@pytest.mark.parametrize(
    ("loss", "scores"),
    [
        (nn.BCEWithLogitsLoss(), X.sigmoid()),
        (nn.CrossEntropyLoss(), X.softmax(dim=1)),
        (nn.NLLLoss(), X.exp()),
        (nn.BCELoss(), X),
        (nn.SmoothL1Loss(), X),
    ],
)
def test_a_known_loss_tells_what_the_outputs_are(loss, scores):
    assert torch.equal(LitModule(Same(), loss, sgd).scores(X), scores)


class OwnSteps(LitModule):
    """As Lightning's manual has it: a step of its own that logs by itself."""

    def training_step(self, batch, batch_idx):
        x, y = batch
        loss = nn.functional.mse_loss(self.net(x), y)
        self.log("train/loss", loss, on_epoch=True, on_step=False)
        return loss

    def validation_step(self, batch, batch_idx):
        x, y = batch
        self.log("val/loss", (self.net(x) - y).abs().mean())


def test_a_step_of_ones_own_logs_its_own_numbers_and_no_others():
    module, loader = OwnSteps(Same(), nn.MSELoss(), sgd), TensorLoader((X, X + 2), 4)
    fitting = trainer(max_epochs=1)
    fitting.fit(module, loader, loader)
    logged = {name: float(value) for name, value in fitting.callback_metrics.items()}
    assert logged == {"train/loss": pytest.approx(4.0), "val/loss": pytest.approx(2.0)}


class Both(LitModule):
    """Calls the step above and logs a number of the same name."""

    def validation_step(self, batch, batch_idx):
        super().validation_step(batch, batch_idx)
        self.log("val/loss", torch.tensor(7.0))


def test_a_name_that_a_subclass_logs_is_its_own():
    module = Both(Same(), nn.MSELoss(), sgd, metrics={"mse": MeanSquaredError()})
    (result,) = trainer().validate(module, TensorLoader((X, X + 2), 4), verbose=False)
    assert result == {"val/loss": 7.0, "val/mse": pytest.approx(4.0)}


def unequal(loss: dict) -> dict:
    return {
        "seed_everything": 0,
        "experiment": "sums",
        "model": {
            "net": {"class_path": "torch.nn.Linear", "init_args": {"in_features": 3, "out_features": 3}},
            "loss": loss,
            "optimizer": {"class_path": "torch.optim.SGD", "init_args": {"lr": 0.1}},
        },
        "data": {"class_path": "tests.engine.test_step.Data"},
        "trainer": {"max_epochs": 2, "accelerator": "cpu", "enable_progress_bar": False},
    }


class Data(LightningDataModule):
    def __init__(self, batch_size: int = 6):
        super().__init__()
        self.batch_size = batch_size

    def train_dataloader(self):
        return DataLoader(TensorDataset(X, CLASSES), self.batch_size, shuffle=True)

    def val_dataloader(self):
        return DataLoader(TensorDataset(X, CLASSES), self.batch_size)

    test_dataloader = val_dataloader


@pytest.mark.slow
def test_processes_train_like_one_where_classes_have_weights(tmp_path):
    loss = {"class_path": "torch.nn.CrossEntropyLoss", "init_args": {"weight": [1.0, 5.0, 16.0]}}
    one = fit(tmp_path / "1", unequal(loss))
    for number in (2, 3):
        folder = tmp_path / str(number)
        folder.mkdir()
        (folder / "sums.yaml").write_text(yaml.safe_dump(unequal(loss)))
        size = f"--data.batch_size={6 // number}"
        launch("fit", "--config", "sums.yaml", size, *processes(number), cwd=folder)
        for name, value in weights(one).items():
            assert torch.allclose(weights(folder / "runs/sums/version_0")[name], value, rtol=1e-5, atol=1e-6)
        for left, right in zip(rows(one), rows(folder / "runs/sums/version_0"), strict=True):
            assert left == pytest.approx(right, rel=1e-5)


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


def sentences(num_classes: int, only_padding: bool = False) -> list[dict]:
    """Five batches of two sentences each, of several lengths, padded with labels of -100."""
    generator = torch.Generator().manual_seed(1)
    made = []
    for length in (7, 3, 5, 4, 6):
        ids = torch.randint(0, 9, (2, length), generator=generator)
        labels = torch.randint(0, num_classes, (2, length), generator=generator)
        labels[1, length // 2 :] = -100
        made.append({"input_ids": ids, "labels": labels})
    if only_padding:
        made[2]["labels"][:] = -100
    return made


@pytest.mark.parametrize("only_padding", [False, True])
@pytest.mark.parametrize("ahead", [0, 1])
@pytest.mark.parametrize("num_classes", [3, 7])  # 7 is a length, too
def test_the_loss_of_a_net_is_weighted_by_the_labels_that_its_mean_is_over(num_classes, ahead, only_padding):
    torch.manual_seed(0)
    net, batches = Tokens(num_classes, ahead), sentences(num_classes, only_padding)
    logits = torch.cat([net(b["input_ids"]).logits[:, : b["labels"].shape[1] - ahead].flatten(0, 1) for b in batches])
    labels = torch.cat([b["labels"][:, ahead:].flatten() for b in batches])
    metrics = {
        "acc": MulticlassAccuracy(num_classes, average="micro"),
        "perplexity": torchmetrics.text.Perplexity(),
        "f1": ClasswiseWrapper(MulticlassF1Score(num_classes, average=None)),
    }
    module = LitModule(net, None, sgd, metrics, activation="softmax")
    (result,) = trainer().test(module, DataLoader(batches, batch_size=None), verbose=False)
    loss, kept = nn.functional.cross_entropy(logits, labels).detach(), labels != -100
    assert result["test/loss"] == pytest.approx(float(loss), rel=1e-6)
    assert result["test/perplexity"] == pytest.approx(float(loss.exp()), rel=1e-5)
    assert result["test/acc"] == pytest.approx(float((logits.argmax(1) == labels)[kept].float().mean()))
    f1 = MulticlassF1Score(num_classes, average="none")(logits[kept], labels[kept])
    assert [value for name, value in result.items() if "/f1/" in name] == pytest.approx(f1.tolist())
    fitting = trainer(max_epochs=1)
    fitting.fit(module, DataLoader(batches, batch_size=None))
    assert float(fitting.callback_metrics["train/loss"]) == pytest.approx(float(loss), rel=1e-6)


def test_scores_of_tokens_are_probabilities_over_the_classes():
    module = LitModule(Tokens(3), None, sgd, activation="softmax")
    scores = module.predict_step({"input_ids": torch.arange(8).reshape(2, 4)}, 0)
    assert torch.allclose(scores.sum(dim=2), torch.ones(2, 4))
    # A net that looks at images has its classes second, and so has any with torch's cross-entropy.
    for loss, shape in ((None, (2, 3, 4, 4)), (nn.CrossEntropyLoss(), (2, 3, 4))):
        scores = LitModule(Same(), loss, sgd, activation="softmax").scores(torch.randn(shape))
        assert torch.allclose(scores.sum(dim=1), torch.ones(2, *shape[2:]))


class TokenLoss(nn.Module):
    def forward(self, logits, target):
        return nn.functional.cross_entropy(logits.flatten(0, 1), target.flatten())


def test_softmax_over_the_wrong_dimension_is_refused_and_the_advice_is_right():
    x, target = torch.randn(4, 5, 3), torch.randint(0, 3, (4, 5))
    metrics = {"acc": MulticlassAccuracy(3, average="micro")}
    module = LitModule(Same(), TokenLoss(), sgd, metrics, activation="softmax")
    with pytest.raises(UserError, match=r"torch.nn.Softmax and --model.activation.init_args.dim -1"):
        trainer().test(module, TensorLoader((x, target), 2), verbose=False)
    module = LitModule(Same(), TokenLoss(), sgd, metrics, activation=nn.Softmax(dim=-1))
    (result,) = trainer().test(module, TensorLoader((x, target), 2), verbose=False)
    assert result["test/acc"] == pytest.approx(float((x.argmax(dim=2) == target).float().mean()))


def test_metrics_leave_out_what_the_loss_leaves_out():
    metrics = {"acc": MulticlassAccuracy(3, average="micro")}
    module = LitModule(Same(), nn.CrossEntropyLoss(ignore_index=3), sgd, metrics)
    (result,) = trainer().test(module, TensorLoader((IMAGES, PIXELS.where(PIXELS > 0, 3)), 5), verbose=False)
    kept = (PIXELS > 0) & (PIXELS < 3)
    assert result["test/acc"] == pytest.approx(float((IMAGES.argmax(dim=1) == PIXELS)[kept].float().mean()))
    own = {"acc": MulticlassAccuracy(3, ignore_index=0)}
    assert LitModule(Same(), None, sgd, own).metrics["acc"].ignore_index == 0


class NoLoss(Same):
    def forward(self, x, **rest):
        return super().forward(x)


@pytest.mark.parametrize(
    ("net", "batch", "problem"),
    [
        (
            Tokens(3),
            {"input_ids": torch.arange(3)[None]},
            "Tokens has to return an object with loss and log",
        ),
        (NoLoss(), {"x": X, "labels": CLASSES}, r"it returned \(16, 3\) float32"),
        (NoLoss(), (X, CLASSES), r"has to be a dict of the net's keywords. It was x \(16, 3\)"),
    ],
)
def test_a_net_without_a_loss_is_one_line_where_the_loss_is_null(net, batch, problem):
    with pytest.raises(UserError, match=problem):
        LitModule(net, None, sgd).step(batch)


class Returns(LitModule):
    """Returns what a test says."""

    def __init__(self, make, metrics=None):
        super().__init__(Same(), nn.MSELoss(), sgd, metrics)
        self.make = make

    def step(self, batch):
        x, y = batch
        return self.make((self.net(x) - y).square().mean(), x)


@pytest.mark.parametrize("make", [lambda loss, x: loss, lambda loss, x: {"loss": loss}, lambda loss, x: loss[None]])
def test_a_step_may_return_the_loss_alone(make):
    module, loader = Returns(make), TensorLoader((X, X.square()), 5)
    fitting = trainer(max_epochs=1)
    fitting.fit(module, loader, loader)
    logged = {name: float(value) for name, value in fitting.callback_metrics.items()}
    whole = float((X - X.square()).square().mean())
    assert logged == {"train/loss": pytest.approx(whole, rel=1e-6), "val/loss": pytest.approx(whole, rel=1e-6)}


RETURNED = {
    "nothing": (lambda loss, x: None, "step returned NoneType. Let it return.*StepOutput"),
    "a float": (lambda loss, x: float(loss), r"step returned float.*StepOutput\(loss, num_samples"),
    "a tuple": (lambda loss, x: (loss, x), "step returned x .* float32, target .* float32. Let it return the loss"),
    "Lightning's dict": (lambda loss, x: {"loss": loss, "preds": x}, r"parts\['preds'\] is \(4, 3\) float32"),
    "many losses": (lambda loss, x: x, r"StepOutput: loss is \(4, 3\) float32; .* Take its mean over the batch"),
    "a number as the loss": (lambda loss, x: StepOutput(3.0, 4), "StepOutput: loss is float; it has to be a tensor"),
    "a mean as the number": (lambda loss, x: StepOutput(loss, 4.0), "StepOutput: num_samples is 4.0; it has to be an"),
    "a mask as the number": (lambda loss, x: StepOutput(loss, x > 0), r"num_samples is \(4, 3\) bool; it has to be"),
    "less than nothing": (lambda loss, x: StepOutput(loss, -1), "num_samples is -1"),
    "a number as a part": (lambda loss, x: StepOutput(loss, 4, parts={"l1": 0.5}), r"parts\['l1'\] is float; it has"),
    "many parts": (lambda loss, x: StepOutput(loss, 4, parts={"l1": x}), r"parts\['l1'\] is \(4, 3\) float32"),
    "a part called loss": (lambda loss, x: StepOutput(loss, 4, parts={"loss": loss}), "the name 'loss', which is that"),
}


@pytest.mark.parametrize("stage", ["train", "val"])
@pytest.mark.parametrize(("make", "problem"), RETURNED.values(), ids=RETURNED.keys())
def test_what_else_a_step_returns_is_one_line_at_the_first_batch(make, problem, stage):
    module, loader = Returns(make), TensorLoader((X, X), 4)
    run = trainer(max_epochs=1)
    with pytest.raises(UserError, match=problem):
        run.fit(module, loader) if stage == "train" else run.validate(module, loader)
    assert run.global_step == 0


METRICS = {"mse": MeanSquaredError()}


@pytest.mark.parametrize("make", [lambda loss, x: loss, lambda loss, x: StepOutput(loss, len(x))])
def test_a_step_without_outputs_for_the_metrics_is_refused_before_the_first_step(make):
    run, loader = trainer(max_epochs=1), TensorLoader((X, X), 4)
    with pytest.raises(
        UserError, match=r"The step of val gave no outputs for the metrics mse.*StepOutput\(loss, num_s"
    ):
        run.fit(Returns(make, METRICS), loader, loader)
    assert run.global_step == 0


@pytest.mark.parametrize("name", ["mse", "mse/1"])
def test_a_part_with_the_name_of_a_metric_is_refused_at_the_first_batch(name):
    run, loader = trainer(max_epochs=1), TensorLoader((X, X), 4)
    module = Returns(lambda loss, x: StepOutput(loss, len(x), x, x, {name: loss}), METRICS)
    with pytest.raises(UserError, match=rf"parts has the name '{name}', which is that of the loss or of a metric"):
        run.fit(module, loader)
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


def test_a_training_step_on_padding_alone_changes_no_weight():
    module = Returns(lambda loss, x: StepOutput(loss + float("nan"), torch.tensor(0)))
    trainer(max_epochs=1).fit(module, TensorLoader((X, X), 4))
    assert module.net.zero == 0
