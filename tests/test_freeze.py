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
    """An encoder with two norms, a norm of its own, a head, and a weight that is never trained."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 8), nn.BatchNorm1d(8))
        self.norm = nn.SyncBatchNorm(8)
        self.head = nn.Linear(8, 1)
        self.scale = nn.Module()
        self.scale.fixed = nn.Parameter(torch.ones(1), requires_grad=False)

    def forward(self, x):
        encoded = self.encoder(x)
        # On a CPU a SyncBatchNorm works in evaluation only.
        return self.head(encoded if self.norm.training else self.norm(encoded)) * self.scale.fixed


class FreezesItself(Normed):
    """Keeps its encoder in evaluation and without gradients, as torchvision's and mmdetection's nets do."""

    def train(self, mode: bool = True):
        super().train(mode)
        self.encoder.eval()
        self.encoder.requires_grad_(False)
        return self


class SetAside(FreezesItself):
    """Begins with its norm in evaluation, and keeps it there."""

    def __init__(self) -> None:
        super().__init__()
        self.norm.eval()


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
    """Does what many do after a validation."""

    def on_validation_model_train(self):
        self.train()


class FrozenByModule(LitModule):
    """The module freezes in the place of the net, which it makes only when the run begins."""

    def configure_model(self):
        self.net.encoder = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 8))

    def train(self, mode: bool = True):
        super().train(mode)
        self.net.encoder.eval()
        self.net.encoder.requires_grad_(False)
        return self


def experiment(freeze, net="Normed", **more):
    """A run of the net above with Freeze."""
    callbacks = ({"class_path": "src.callbacks.freeze.Freeze", "init_args": freeze},) if freeze is not None else ()
    made = stopping.config(callbacks=callbacks, **more)
    made["trainer"]["callbacks"][0] = {"class_path": f"{__name__}.Watch"}
    made["model"]["net"] = {"class_path": f"{__name__}.{net}"}
    return made


@pytest.fixture
def fit_normed(cli, tmp_path):
    """Fit it for 3 epochs; return the parts that changed after the first, running statistics included."""

    def fit(freeze, *more, net="Normed"):
        (tmp_path / "sums.yaml").write_text(yaml.safe_dump(experiment(freeze, net)))
        Watch.seen.clear()
        Watch.weights.clear()
        done = cli("fit", "--config", "sums.yaml", *more)
        assert done.code == 0, done.err
        assert len(Watch.seen) == 36
        return changed(Watch.weights[0], Watch.weights[2])

    return fit


def changed(one, two):
    return {name.rpartition(".")[0] for name in one if not torch.equal(one[name], two[name])}


def in_evaluation(modes):
    return {name for name, training in modes.items() if not training}


ENCODER = {f"encoder.{number}" for number in range(5)} | {"encoder"}
NORMS = {"encoder.1", "encoder.4", "norm"}
LEARNS = {"encoder.0", "encoder.1", "encoder.3", "encoder.4", "head"}
VALIDATE_WITHIN_AN_EPOCH = "--trainer.val_check_interval=3"


@pytest.mark.parametrize(
    ("freeze", "trained"),
    [
        ({"modules": ["net.encoder"]}, {"head"}),
        ({"modules": ["net.encoder.[01]"], "types": ["SyncBatchNorm"]}, {"encoder.3", "encoder.4", "head"}),
        ({"types": ["_BatchNorm"]}, LEARNS - NORMS),
        (None, LEARNS),
    ],
    ids=["a part", "patterns and types", "a base class", "none"],
)
def test_frozen_parts_keep_weights_and_running_statistics_and_the_rest_learns(fit_normed, freeze, trained):
    assert fit_normed(freeze) == trained


def test_after_a_validation_within_an_epoch_it_is_still_frozen(fit_normed):
    fit_normed({"types": ["_BatchNorm"]}, VALIDATE_WITHIN_AN_EPOCH, f"--model={__name__}.Loud")
    assert all(in_evaluation(modes) == NORMS for modes in Watch.seen)


def test_frozen_parts_train_later_and_what_the_net_keeps_fixed_does_not(fit_normed):
    freeze = {"modules": ["net.encoder*", "net.scale"], "until_epoch": 2}
    assert fit_normed(freeze) == LEARNS
    assert changed(Watch.weights[0], Watch.weights[1]) == {"head"}
    assert [modes["encoder.1"] for modes in Watch.seen] == [False] * 24 + [True] * 12


@pytest.mark.parametrize("net", ["Normed", "FreezesItself"])
def test_a_stopped_run_freezes_and_thaws_like_one_that_was_not(tmp_path, net):
    made = experiment({"types": ["BatchNorm1d"], "until_epoch": 2} if net == "Normed" else None, net)
    whole = stopping.fit(tmp_path / "whole", made)
    stopped = stopping.fit(tmp_path / "stopped", made, stop_at=("on_train_batch_end", 20))
    assert stopping.resume(stopped) == 0
    assert stopping.run_differences(whole, stopped) == []


@pytest.mark.parametrize(
    ("freeze", "words"),
    [
        ({"modules": ["net.0", "net.decoder.*"]}, r"net\.decoder\.\* names no module; there are .*net\.0 \(Linear\)"),
        ({"types": ["Linaer"]}, "Linaer names no module"),
        ({}, "name what to freeze, by modules or types"),
    ],
)
def test_a_mistake_lists_the_modules(freeze, words):
    module = LitModule(stopping.Net(), nn.MSELoss(), torch.optim.SGD)
    with pytest.raises(UserError, match=words):
        Freeze(**freeze).on_train_start(None, module)


def test_the_fragment_freezes_until_its_epoch(fit_sums, tmp_path):
    freeze = yaml.safe_load((CONFIGS / "callbacks/freeze.yaml").read_text())
    freeze["trainer"]["callbacks+"][0]["init_args"]["modules"] = ["net.0"]
    (tmp_path / "freeze.yaml").write_text(yaml.safe_dump(freeze))
    Watch.weights.clear()
    fit_sums(f"{tmp_path}/freeze.yaml", f"--trainer.callbacks+={__name__}.Watch")
    one, two, three = Watch.weights
    assert changed(one, two) == {"2"}
    assert changed(two, three) == {"0", "2"}


BY_ITSELF = {
    "the net": [],
    "the module": [f"--model={__name__}.FrozenByModule"],
    "a validation within an epoch": [VALIDATE_WITHIN_AN_EPOCH, "--trainer.num_sanity_val_steps=0"],
    "ema": ["--config", str(CONFIGS / "callbacks/ema.yaml")],
}


@pytest.mark.parametrize("more", BY_ITSELF.values(), ids=BY_ITSELF.keys())
def test_a_net_that_freezes_itself_in_its_train_method_stays_frozen(fit_normed, more):
    net = "Normed" if "FrozenByModule" in "".join(more) else "FreezesItself"
    assert fit_normed(None, *more, net=net) == {"head"}
    assert all(in_evaluation(modes) == ENCODER & modes.keys() for modes in Watch.seen)


def test_freeze_and_a_net_that_freezes_itself_go_together(fit_normed):
    assert fit_normed({"modules": ["net.encoder", "net.norm"], "until_epoch": 1}, net="FreezesItself") == {"head"}
    # The norm was frozen by the callback alone, the encoder stays frozen by the net.
    assert [modes["norm"] for modes in Watch.seen] == [False] * 12 + [True] * 24
    assert not any(modes["encoder.1"] for modes in Watch.seen)


def test_modules_in_evaluation_before_the_fit_stay_so(fit_normed):
    fit_normed(None, net="SetAside")
    assert in_evaluation(Watch.seen[-1]) == ENCODER | {"norm"}
