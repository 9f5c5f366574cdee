"""States of data modules, modules, callbacks and metrics are plain values, and come back from a checkpoint."""

import datetime
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from lightning.pytorch import Callback, LightningModule
from torch import nn
from torchmetrics import MeanAbsoluteError, MeanMetric, MeanSquaredError, MetricCollection
from torchmetrics.classification import BinaryAccuracy
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


class Data(Keeping, stopping.Sums):
    """A data module with a state."""


class Counting(Keeping, Callback):
    """A callback with a state."""


class Plain(LightningModule):
    """Keeps metrics in attributes, lists and dicts."""

    def __init__(self):
        super().__init__()
        self.net = nn.Linear(4, 1)
        self.held = nn.ModuleList([MinMaxMetric(MeanSquaredError())])
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

    def validation_step(self, batch, batch_idx):
        self.held[0].update(self.net(batch[0]), batch[1])
        self.log("val/loss", (self.net(batch[0]) - batch[1]).square().mean())

    def on_validation_epoch_end(self):
        self.log_dict({f"val/{name}": value for name, value in self.held[0].compute().items()})
        self.held[0]._base_metric.reset()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.05)

    def on_save_checkpoint(self, checkpoint):
        checkpoint["added"] = Keeping.state

    def on_load_checkpoint(self, checkpoint):
        Keeping.loaded.append(checkpoint["added"])


def experiment():
    made = stopping.config(every_n_steps=1, callbacks=({"class_path": f"{__name__}.Counting"},), max_epochs=2)
    return made | {"model": {"class_path": f"{__name__}.Plain"}, "data": {"class_path": f"{__name__}.Data"}}


@pytest.mark.parametrize("stop", [("on_train_batch_end", 16), ("on_train_epoch_start", 2)])
def test_a_resume_without_a_sanity_check_ends_with_the_same_rows(stop, tmp_path):
    whole, killed = stopping.killed_at(stop, tmp_path, experiment())
    first = stopping.rows(whole)[0]
    assert first["val/max"] == first["val/raw"]  # no trace of the sanity check, whose error is larger
    Keeping.loaded.clear()
    assert stopping.resume(killed, "--trainer.num_sanity_val_steps=0") == 0
    assert (killed / "metrics.csv").read_bytes() == (whole / "metrics.csv").read_bytes()
    # The data module gets its state before its setup, and again by Lightning.
    assert len(Keeping.loaded) == 4
    for state in Keeping.loaded:
        assert (state["best"][0], state["best"][1].tolist(), state["seen"]) == (1.5, [1, 1], {1, 2})


def test_an_option_of_a_metric_is_not_restored():
    module = nn.ModuleDict({"acc": BinaryAccuracy(threshold=0.1)})
    before = metric_states(module)
    module["acc"].update(torch.ones(1), torch.ones(1))
    other = nn.ModuleDict({"acc": BinaryAccuracy(threshold=0.9)})
    set_metric_states(other, changed_states(before, metric_states(module)))
    assert other["acc"].compute() == 1
    assert other["acc"].threshold == 0.9


class Learned(stopping.Sums):
    """Learns the words of a file in its setup, unless a checkpoint brings them."""

    words: tuple[str, ...] = ()

    def setup(self, stage):
        if not self.words:
            print("learns a vocabulary")
            self.words = tuple(Path("words.txt").read_text().split())

    predict_dataloader = stopping.Sums.val_dataloader

    def state_dict(self):
        return {"words": self.words}

    def load_state_dict(self, state):
        self.words = state["words"]


def test_a_checkpoint_brings_what_was_learned_to_every_verb_but_not_to_a_new_run(fit_sums, cli):
    Path("words.txt").write_text("a fine book")
    new = (f"--data={__name__}.Learned", "--trainer.max_epochs=1")
    assert fit_sums(*new).out.count("learns a vocabulary") == 1
    run = "runs/sums/version_0"
    Path("words.txt").unlink()
    for words in (["test"], ["fit", "--trainer.max_epochs=2"], ["predict"]):
        done = cli(*words, "--ckpt_path", run)
        assert done.code == 0, done.err
    kept = torch.load(f"{run}/checkpoints/last.ckpt", weights_only=True)
    assert (kept["global_step"], kept["Learned"]) == (24, {"words": ("a", "fine", "book")})
    Path("words.txt").write_text("another one")
    assert fit_sums(*new, f"--transfer.weights={run}").out.count("learns a vocabulary") == 1
