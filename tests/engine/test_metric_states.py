"""What metrics keep beyond `reset()`: a sanity check leaves nothing of it, a resume ends with the same rows."""

import functools
from collections import deque

import numpy as np
import pytest
import torch
from lightning.pytorch import LightningDataModule, LightningModule
from torch import nn
from torch.utils.data import DataLoader, TensorDataset
from torchmetrics import (
    MeanAbsoluteError,
    MeanMetric,
    MeanSquaredError,
    Metric,
    MetricCollection,
    MetricTracker,
    MinMaxMetric,
    R2Score,
)
from torchmetrics.wrappers import Running

from src.engine.checkpoint.plain import changed_states, common_states, metric_states, set_metric_states
from tests.stopping import fit, resume, rows


class Kept(Metric):
    """A metric of one's own, with attributes that are no states."""

    full_state_update = False

    def __init__(self):
        super().__init__()
        self.add_state("total", torch.zeros(()), dist_reduce_fx="sum")
        self.best, self.history, self.last = None, [], deque(maxlen=2)
        self.values, self.seen = np.zeros(0), {"names": set()}

    def update(self, guess, target):
        self.total = self.total + (guess - target).abs().sum()

    def compute(self):
        value = float(self.total)
        self.best = value if self.best is None else min(self.best, value)
        self.history.append(value)
        self.last.append(value)
        self.values = np.append(self.values, value)
        self.seen["names"].add(len(self.history))
        return torch.tensor(
            self.best + sum(self.history) + sum(self.last) + self.values.sum() + max(self.seen["names"])
        )


class Plain(LightningModule):
    """Keeps metrics in attributes, lists and dicts."""

    def __init__(self):
        super().__init__()
        self.net = nn.Linear(2, 1)
        self.tracker = MetricTracker(
            MetricCollection({"mae": MeanAbsoluteError(), "mse": MeanSquaredError()}), [False] * 2
        )
        self.held = nn.ModuleList([MinMaxMetric(MeanSquaredError()), Kept()])
        self.running = nn.ModuleDict({"loss": Running(MeanMetric(), window=5)})
        self.several = MetricCollection({"mae": MeanAbsoluteError(), "mse": MeanSquaredError(), "r2": R2Score()})

    def training_step(self, batch, batch_idx):
        guess = self.net(batch[0])
        loss = (guess - batch[1]).square().mean()
        self.running["loss"].update(loss.detach())
        self.log("train/running", self.running["loss"].compute())
        self.several.update(guess, batch[1])
        self.log_dict(self.several, on_step=False, on_epoch=True)
        return loss

    def on_validation_epoch_start(self):
        self.tracker.increment()

    def validation_step(self, batch, batch_idx):
        guess = self.net(batch[0])
        for metric in (self.tracker, *self.held):
            metric.update(guess, batch[1])
        self.log("val/loss", (guess - batch[1]).square().mean())

    def on_validation_epoch_end(self):
        best, step = self.tracker.best_metric(return_step=True)
        self.log_dict({"val/best": best["mae"], "val/step": float(step["mae"]), "val/n": float(self.tracker.n_steps)})
        self.log_dict({f"val/{name}": value for name, value in self.held[0].compute().items()})
        self.log("val/kept", self.held[1].compute())
        for metric in self.held:
            metric.reset()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.3)


class Rows(LightningDataModule):
    """The rows that a sanity check sees are the easiest."""

    def train_dataloader(self):
        return self._loader(0)

    def _loader(self, seed):
        x = torch.randn(32, 2, generator=torch.Generator().manual_seed(seed))
        x[:16] *= 0.01
        return DataLoader(TensorDataset(x, x.sum(1, keepdim=True)), 8, shuffle=seed == 0)

    def val_dataloader(self):
        return self._loader(1)

    def test_dataloader(self):
        return self._loader(3)


class TwoSets(Rows):
    def val_dataloader(self):
        return [self._loader(1), self._loader(2)]


LIT = {
    "class_path": "src.module.LitModule",
    "init_args": {
        "net": {"class_path": "torch.nn.Linear", "init_args": {"in_features": 2, "out_features": 1}},
        "loss": {"class_path": "torch.nn.MSELoss"},
        "optimizer": {"class_path": "torch.optim.SGD", "init_args": {"lr": 0.3}},
        "metrics": {
            "mm": {
                "class_path": "torchmetrics.MinMaxMetric",
                "init_args": {"base_metric": {"class_path": "torchmetrics.MeanAbsoluteError"}},
            },
            "kept": {"class_path": "tests.engine.test_metric_states.Kept"},
        },
    },
}


def experiment(kind, **trainer):
    data = "Rows" if kind == "Plain" else "TwoSets"
    return {
        "seed_everything": 0,
        "experiment": "sums",
        "model": LIT if kind == "Lit" else {"class_path": f"tests.engine.test_metric_states.{kind}"},
        "data": {"class_path": f"tests.engine.test_metric_states.{data}"},
        "trainer": {
            "max_epochs": 3,
            "accelerator": "cpu",
            "enable_progress_bar": False,
            "callbacks": [{"class_path": "tests.stopping.Stop"}],
            **trainer,
        },
        "checkpoint": {"every_n_steps": 1},
    }


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run of each kind that nothing stops."""
    return functools.cache(lambda kind: fit(tmp_path_factory.mktemp(kind), experiment(kind)))


@pytest.mark.parametrize("kind", ["Plain", "Lit"])
def test_a_sanity_check_leaves_nothing_in_metrics(kind, whole, tmp_path):
    run = fit(tmp_path, experiment(kind, num_sanity_val_steps=0))
    assert rows(run) == rows(whole(kind))


@pytest.mark.parametrize("stop", [("on_train_batch_end", 6), ("on_train_epoch_start", 3)], ids=["within", "between"])
@pytest.mark.parametrize("kind", ["Plain", "Lit"])
def test_a_resume_ends_with_the_same_rows(kind, stop, whole, tmp_path):
    run = fit(tmp_path, experiment(kind), stop)
    assert resume(run) == 0
    assert (run / "metrics.csv").read_bytes() == (whole(kind) / "metrics.csv").read_bytes()


def test_a_test_after_a_fit_knows_nothing_of_the_validation(cli, tmp_path):
    run = fit(tmp_path, experiment("Lit") | {"test_after_fit": True})
    tested = {name: value for name, value in rows(run)[-1].items() if name.startswith("test/") and value}
    assert tested["test/mm/min"] == tested["test/mm/max"] == tested["test/mm/raw"]


class Odd(Metric):
    """Keeps what no checkpoint can hold."""

    def __init__(self):
        super().__init__()
        self.thing = object()

    def update(self):
        self.thing = object()

    def compute(self):
        return torch.tensor(0.0)


def test_what_a_checkpoint_cannot_hold_is_named():
    module = nn.ModuleDict({"odd": Odd()})
    before = metric_states(module)
    module["odd"].update()
    with pytest.warns(UserWarning, match="a checkpoint cannot hold thing of the metric odd"):
        assert "thing" not in changed_states(before, metric_states(module))["odd"]


def test_another_number_of_processes_takes_up_what_all_had_but_no_counts():
    module = nn.ModuleDict({"a": MinMaxMetric(MeanSquaredError()), "b": MeanSquaredError()})
    before = metric_states(module)
    for metric in module.values():
        metric.update(torch.ones(2), torch.zeros(2))
    module["a"].compute()
    module["a"].reset()
    changes = changed_states(before, metric_states(module))
    common = common_states(module, [changes, changes])
    assert common.keys() == {"a"}
    set_metric_states(module, before)
    set_metric_states(module, common)
    assert (float(module["a"].max_val), float(module["b"].total)) == (1.0, 0.0)
