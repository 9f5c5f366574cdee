"""A part of the net that stays as it is for a while."""

from typing import ClassVar

import pytest
import torch
import yaml
from torch import nn

from src.callbacks.freeze import Freeze
from src.engine.errors import UserError
from src.module import LitModule
from tests import stopping
from tests.conftest import CONFIGS


class Normed(nn.Module):
    """An encoder with two norms, a head, and a weight that is never trained."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 8), nn.BatchNorm1d(8))
        self.head = nn.Linear(8, 1)
        self.scale = nn.Module()
        self.scale.fixed = nn.Parameter(torch.ones(1), requires_grad=False)

    def forward(self, x):
        return self.head(self.encoder(x)) * self.scale.fixed


class Watch(stopping.Stop):
    """Part of every run: notes which parts train, in steps, and keeps the first and the last weights."""

    seen: ClassVar[list[dict[str, bool]]] = []
    weights: ClassVar[list[dict[str, torch.Tensor]]] = []

    def on_train_batch_end(self, trainer, module, *rest):
        if module.training:
            self.seen.append({name: part.training for name, part in module.net.named_modules()})
        super().on_train_batch_end(trainer, module, *rest)

    def on_train_epoch_end(self, trainer, module):
        self.weights.append({name: value.clone() for name, value in module.net.state_dict().items()})


class Loud(LitModule):
    """Calls what many call after a validation."""

    def on_validation_model_train(self):
        self.train()


def experiment(freeze):
    """A run of the net above with Freeze."""
    made = stopping.config(callbacks=({"class_path": "src.callbacks.freeze.Freeze", "init_args": freeze},))
    made["trainer"]["callbacks"][0] = {"class_path": f"{__name__}.Watch"}
    made["model"]["net"] = {"class_path": f"{__name__}.Normed"}
    return made


@pytest.fixture
def fit_normed(cli, tmp_path):
    """Fit it for 3 epochs; return the parts that changed after the first, running statistics included."""

    def fit(freeze, *more):
        (tmp_path / "sums.yaml").write_text(yaml.safe_dump(experiment(freeze)))
        Watch.seen.clear()
        Watch.weights.clear()
        done = cli("fit", "--config", "sums.yaml", *more)
        assert done.code == 0, done.err
        assert len(Watch.seen) == 36
        return changed(Watch.weights[0], Watch.weights[2])

    return fit


def changed(one, two):
    return {name.rpartition(".")[0] for name in one if not torch.equal(one[name], two[name])}


def test_frozen_parts_keep_weights_and_running_statistics_also_after_a_validation(fit_normed):
    freeze = {"modules": ["net.encoder.[0]", "_BatchNorm"]}
    within = ("--trainer.val_check_interval=3", f"--model={__name__}.Loud")
    assert fit_normed(freeze, *within) == {"encoder.3", "head"}
    frozen = {"encoder.0", "encoder.1", "encoder.4"}
    assert all({name for name in modes if not modes[name]} == frozen for modes in Watch.seen)


def test_frozen_parts_train_later_and_what_the_net_keeps_fixed_does_not(fit_normed):
    fragment = yaml.safe_load((CONFIGS / "callbacks/freeze.yaml").read_text())["trainer"]["callbacks+"][0]["init_args"]
    assert fragment["until_epoch"] == 2
    assert fit_normed(fragment | {"modules": ["net.encoder", "net.scale"]}) == {
        "encoder.0",
        "encoder.1",
        "encoder.3",
        "encoder.4",
        "head",
    }
    assert changed(Watch.weights[0], Watch.weights[1]) == {"head"}
    assert [modes["encoder.1"] for modes in Watch.seen] == [False] * 24 + [True] * 12


def test_a_stopped_run_freezes_and_thaws_like_one_that_was_not(tmp_path):
    made = experiment({"modules": ["BatchNorm1d"], "until_epoch": 2})
    whole, killed = stopping.killed_at(("on_train_batch_end", 20), tmp_path, made)
    assert stopping.resume(killed) == 0
    assert stopping.run_differences(whole, killed) == []


@pytest.mark.parametrize(
    ("modules", "words"),
    [
        (["net.0", "net.decoder.*"], r"net\.decoder\.\* names no module; there are .*net\.0 \(Linear\)"),
        (["Linaer"], "Linaer names no module"),
    ],
)
def test_a_mistake_lists_the_modules(modules, words):
    module = LitModule(stopping.Net(), nn.MSELoss(), torch.optim.SGD)
    with pytest.raises(UserError, match=words):
        Freeze(modules).on_train_start(None, module)
