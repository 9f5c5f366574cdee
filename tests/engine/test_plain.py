"""States of data modules, modules, callbacks and metrics come back with a resume."""

import datetime
import functools
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from lightning.pytorch import Callback, LightningModule
from torch import nn
from torchmetrics import MeanAbsoluteError, MeanMetric, MeanSquaredError, Metric, MetricCollection, MetricTracker
from torchmetrics.wrappers import MinMaxMetric, Running

from src.engine.checkpoint.files import is_plain, pack_checkpoint
from src.engine.checkpoint.resume import changed_states, metric_states, set_metric_states
from tests import stopping

PLAIN = {"a": [1, 0.5, "b", None, True, (2,), {1}, b"c", np.float64(0.1)], 4: torch.ones(2)}


def test_plain_values_are_told_from_objects():
    assert is_plain(PLAIN)
    for value in (np.ones(2), datetime.date(2024, 2, 29), len, nn.Linear(1, 1)):
        assert not is_plain({"a": [0, value]})


def test_numbers_of_numpy_become_pythons_and_a_net_among_hyperparameters_is_left_out():
    state = nn.Linear(1, 1).state_dict()
    checkpoint = {"state_dict": state, "lr": [np.float64(0.1)], "hyper_parameters": {"net": nn.ReLU(), "width": 3}}
    pack_checkpoint(checkpoint)
    assert type(checkpoint["lr"][0]) is float
    assert checkpoint["hyper_parameters"] == {"width": 3}
    assert checkpoint["state_dict"] is state  # no copy, and the versions of its modules


class Keeping:
    """Has a state."""

    state: ClassVar[Any] = {"best": [1.5, torch.ones(2)], "seen": {1, 2}}
    loaded: ClassVar[list[Any]] = []

    def state_dict(self) -> dict[str, Any]:
        return {"state": self.state}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.loaded.append(state["state"])


class Learned(Keeping, stopping.Sums):
    """A data module with a state."""


class Counting(Keeping, Callback):
    """A callback with a state."""


class MinMax(MinMaxMetric):
    """Keeps a set besides its states."""

    def __init__(self, base):
        super().__init__(base)
        self.seen = set()

    def compute(self):
        self.seen.add(float(self._base_metric.compute()))
        return super().compute() | {"seen": torch.tensor(float(len(self.seen)))}


class Plain(LightningModule):
    """Keeps metrics in attributes, lists and dicts."""

    def __init__(self):
        super().__init__()
        self.net = nn.Linear(4, 1)
        errors = {"mae": MeanAbsoluteError(), "mse": MeanSquaredError()}
        self.tracker = MetricTracker(MetricCollection(errors), [False] * 2)
        self.held = nn.ModuleList([MinMax(MeanSquaredError())])
        self.running = nn.ModuleDict({"loss": Running(MeanMetric(), window=5)})
        self.several = MetricCollection({"mae": MeanAbsoluteError(), "mse": MeanSquaredError()})

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
        for metric in (self.tracker, *self.held):
            metric.update(self.net(batch[0]), batch[1])
        self.log("val/loss", (self.net(batch[0]) - batch[1]).square().mean())

    def on_validation_epoch_end(self):
        best, step = self.tracker.best_metric(return_step=True)
        self.log_dict({"val/best": best["mae"], "val/step": float(step["mae"]), "val/n": float(self.tracker.n_steps)})
        self.log_dict({f"val/{name}": value for name, value in self.held[0].compute().items()})
        self.held[0]._base_metric.reset()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.05)

    def on_save_checkpoint(self, checkpoint):
        checkpoint["added"] = Keeping.state

    def on_load_checkpoint(self, checkpoint):
        Keeping.loaded.append(checkpoint["added"])


class Best(Metric):
    """Remembers the best value beyond an epoch."""

    full_state_update = False

    def __init__(self):
        super().__init__()
        self.add_state("total", torch.zeros(()), dist_reduce_fx="sum")
        self.best = float("inf")

    def update(self, guess, target):
        self.total = self.total + (guess - target).abs().sum()

    def compute(self):
        self.best = min(self.best, float(self.total))
        return torch.tensor(self.best)


class TwoSets(Learned):
    """Validates on two sets of data."""

    def val_dataloader(self):
        return [self._loader(torch.arange(48, 56)), self._loader(torch.arange(56, 64))]


def experiment(kind, **trainer):
    made = stopping.config(every_n_steps=1, callbacks=({"class_path": f"{__name__}.Counting"},), **trainer)
    if kind == "Plain":
        made["model"] = {"class_path": f"{__name__}.Plain"}
        made["data"] = {"class_path": f"{__name__}.Learned"}
    else:
        made["data"] = {"class_path": f"{__name__}.TwoSets"}
        made["model"]["metrics"] = {"best": {"class_path": f"{__name__}.Best"}}
    return made


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run of each kind that nothing stops."""
    return functools.cache(lambda kind: stopping.fit(tmp_path_factory.mktemp(kind), experiment(kind)))


@pytest.mark.parametrize(
    ("kind", "stop"), [("Plain", ("on_train_batch_end", 16)), ("Lit", ("on_train_epoch_start", 3))]
)
def test_a_resume_without_a_sanity_check_ends_with_the_same_rows(kind, stop, whole, tmp_path):
    expected = (whole(kind) / "metrics.csv").read_bytes()
    run = stopping.fit(tmp_path, experiment(kind, num_sanity_val_steps=0), stop)
    Keeping.loaded.clear()
    assert stopping.resume(run) == 0
    assert (run / "metrics.csv").read_bytes() == expected
    # The data module gets its state before its setup, and again by Lightning.
    assert len(Keeping.loaded) == (4 if kind == "Plain" else 3)
    for state in Keeping.loaded:
        assert (state["best"][0], state["best"][1].tolist(), state["seen"]) == (1.5, [1, 1], {1, 2})


def test_an_option_of_a_metric_is_not_restored():
    module = nn.ModuleDict({"best": Best()})
    before = metric_states(module)
    module["best"].update(torch.ones(1), torch.zeros(1))
    changes = changed_states(before, metric_states(module))
    assert "_update_count" in changes["best"]
    assert "full_state_update" not in changes["best"]
    other = nn.ModuleDict({"best": Best()})
    set_metric_states(other, changes)
    assert float(other["best"].total) == 1.0
