"""A part of the net that stays as it is for a while."""

from typing import ClassVar

import pytest
import torch
import yaml
from torch import nn

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


class Watch(stopping.Stop):
    """Part of every run: notes which parts train, in steps."""

    seen: ClassVar[list[dict[str, bool]]] = []

    def on_train_batch_end(self, trainer, module, *rest):
        if module.training:
            self.seen.append({name: part.training for name, part in module.net.named_modules()})


class Loud(LitModule):
    """Does what many do after a validation."""

    def on_validation_model_train(self):
        self.train()


def experiment(freeze, **more):
    """A run of the net above with Freeze."""
    callbacks = ({"class_path": "src.callbacks.freeze.Freeze", "init_args": freeze},) if freeze is not None else ()
    made = stopping.config(callbacks=callbacks, **more)
    made["trainer"]["callbacks"][0] = {"class_path": f"{__name__}.Watch"}
    made["model"]["net"] = {"class_path": f"{__name__}.Normed"}
    return made


@pytest.fixture
def fit_normed(cli, tmp_path):
    """Fit it; returns the weights, and leaves the modes of the parts in each step in Watch.seen."""

    def fit(freeze, *more, epochs=2):
        (tmp_path / "sums.yaml").write_text(yaml.safe_dump(experiment(freeze, max_epochs=epochs)))
        number = len(list(tmp_path.glob("runs/sums/*")))
        Watch.seen.clear()
        done = cli("fit", "--config", "sums.yaml", *more)
        assert done.code == 0, done.err
        return {name.removeprefix("net."): value for name, value in load(number=number)["state_dict"].items()}

    return fit


def changed(one, two):
    """The parts of which anything differs, running statistics included."""
    return {name.rpartition(".")[0] for name in one if not torch.equal(one[name], two[name])}


NORMS = {"encoder.1", "encoder.4", "norm"}
REST = {"encoder.0", "encoder.3", "head"}


@pytest.mark.parametrize(
    ("freeze", "trained"),
    [
        ({"modules": ["net.encoder"]}, {"head"}),
        ({"modules": ["net.encoder.*"]}, {"head"}),
        ({"modules": ["net.encoder.[01]"], "types": ["SyncBatchNorm"]}, {"encoder.3", "encoder.4", "head"}),
        ({"types": ["BatchNorm1d"]}, REST),
        ({"types": ["_BatchNorm"]}, REST),
        ({"types": ["Linear"]}, NORMS - {"norm"}),
        (None, REST | NORMS - {"norm"}),
    ],
    ids=lambda value: str(sorted(value) if isinstance(value, set) else value),
)
def test_what_is_frozen_keeps_weights_and_running_statistics_all_else_learns(fit_normed, freeze, trained):
    one, three = (fit_normed(freeze, epochs=epochs) for epochs in (1, 3))
    assert changed(one, three) == trained


VALIDATE_AMID_AN_EPOCH = "--trainer.val_check_interval=3"


@pytest.mark.parametrize("more", [[], [f"--model={__name__}.Loud"]], ids=["as Lightning does", "by a hook"])
def test_after_a_validation_amid_an_epoch_it_is_still_frozen_and_the_rest_trains(fit_normed, more):
    fit_normed({"types": ["_BatchNorm"]}, VALIDATE_AMID_AN_EPOCH, *more)
    assert len(Watch.seen) == 24
    for modes in Watch.seen:
        assert {name for name, training in modes.items() if not training} == NORMS


def test_what_was_frozen_trains_later_and_what_the_net_keeps_fixed_does_not(fit_normed):
    freeze = {"modules": ["net.encoder*", "net.scale"], "until_epoch": 2}
    two, three = (fit_normed(freeze, epochs=epochs) for epochs in (2, 3))
    assert changed(two, three) == {"head", *(f"encoder.{number}" for number in (0, 1, 3, 4))}
    assert [modes["encoder.1"] for modes in Watch.seen] == [False] * 24 + [True] * 12


@pytest.mark.parametrize("step", [6, 20, 24])
def test_a_run_that_was_stopped_freezes_and_thaws_as_one_that_was_not(tmp_path, step):
    made = experiment({"types": ["BatchNorm1d"], "until_epoch": 2})
    whole = stopping.fit(tmp_path / "whole", made)
    stopped = stopping.fit(tmp_path / "stopped", made, stop_at=("on_train_batch_start", step))
    assert stopping.resume(stopped) == 0
    assert stopping.run_differences(whole, stopped) == []


@pytest.mark.parametrize(
    ("freeze", "hint", "name"),
    [
        ({"modules": ["net.decoder.*"]}, "there is no module net.decoder.*; there are", "net.encoder.0"),
        ({"types": ["BatchNrom1d"]}, "no module is a BatchNrom1d; there are", "BatchNorm1d"),
        ({}, "name what is to be frozen, by modules or types", "net.encoder.0"),
    ],
)
def test_a_mistake_is_one_clear_error(cli, tmp_path, freeze, hint, name):
    (tmp_path / "sums.yaml").write_text(yaml.safe_dump(experiment(freeze)))
    done = cli("fit", "--config", "sums.yaml")
    assert done.code == 1
    assert hint in done.err
    assert name in done.err


def load(name="last", number=0):
    return torch.load(f"runs/sums/version_{number}/checkpoints/{name}.ckpt", weights_only=True)


def test_frozen_modules_keep_their_weights_until_their_epoch(fit_sums, tmp_path):
    freeze = yaml.safe_load((CONFIGS / "callbacks/freeze.yaml").read_text())
    freeze["trainer"]["callbacks+"][0]["init_args"]["modules"] = ["net.0"]
    (tmp_path / "freeze.yaml").write_text(yaml.safe_dump(freeze))
    for epochs in (1, 2, 3):
        fit_sums(f"{tmp_path}/freeze.yaml", f"--trainer.max_epochs={epochs}", "--trainer.num_sanity_val_steps=0")
    one, two, three = (load(number=number)["state_dict"] for number in range(3))
    assert torch.equal(one["net.0.weight"], two["net.0.weight"])
    assert not torch.equal(one["net.2.weight"], two["net.2.weight"])
    assert not torch.equal(two["net.0.weight"], three["net.0.weight"])


class FreezesItself(Normed):
    """Keeps its encoder in evaluation and without gradients, as torchvision's and mmdetection's nets do."""

    def train(self, mode: bool = True):
        super().train(mode)
        self.encoder.eval()
        self.encoder.requires_grad_(False)
        return self


class FrozenByModule(LitModule):
    """The module does it in the place of the net."""

    def train(self, mode: bool = True):
        super().train(mode)
        self.net.encoder.eval()
        self.net.encoder.requires_grad_(False)
        return self


class Late(FrozenByModule):
    """Makes its net only when the run begins."""

    def configure_model(self):
        self.net.encoder = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 8))


ENCODER = {f"encoder.{number}" for number in range(5)} | {"encoder"}
SELF = f"--model.net={__name__}.FreezesItself"
BY_ITSELF = {
    "the net": [SELF],
    "the module": [f"--model={__name__}.FrozenByModule"],
    "a net made late": [f"--model={__name__}.Late"],
    "without a sanity check": [SELF, "--trainer.num_sanity_val_steps=0"],
    "a validation amid an epoch": [SELF, VALIDATE_AMID_AN_EPOCH],
    "ema": [SELF, "--config", str(CONFIGS / "callbacks/ema.yaml")],
    "swa": [SELF, "--config", str(CONFIGS / "callbacks/swa.yaml")],
}


@pytest.mark.parametrize("more", BY_ITSELF.values(), ids=BY_ITSELF.keys())
def test_a_net_that_freezes_itself_in_its_train_method_stays_frozen(fit_normed, more):
    one, three = (fit_normed(None, *more, epochs=epochs) for epochs in (1, 3))
    close = {name: one[name] if torch.allclose(one[name], three[name], rtol=1e-6) else three[name] for name in one}
    assert changed(one, close) == {"head"}  # the mean of three equal weights may differ in its last bit
    assert len(Watch.seen) == 36
    for modes in Watch.seen:
        assert {name for name, training in modes.items() if not training} == ENCODER & modes.keys()


def test_freeze_and_a_net_that_freezes_itself_go_together(fit_normed):
    freeze = {"modules": ["net.encoder", "net.norm"], "until_epoch": 1}
    one, three = (fit_normed(freeze, SELF, epochs=epochs) for epochs in (1, 3))
    assert changed(one, three) == {"head"}
    # The norm was frozen by the callback alone, the encoder stays frozen by the net.
    assert [modes["norm"] for modes in Watch.seen] == [False] * 12 + [True] * 24
    assert not any(modes["encoder.1"] for modes in Watch.seen)


def test_a_net_that_freezes_itself_resumes_to_the_bit(tmp_path):
    made = experiment(None)
    made["model"]["net"] = {"class_path": f"{__name__}.FreezesItself"}
    whole = stopping.fit(tmp_path / "whole", made)
    stopped = stopping.fit(tmp_path / "stopped", made, stop_at=("on_train_batch_start", 20))
    assert stopping.resume(stopped) == 0
    assert stopping.run_differences(whole, stopped) == []


class SetAside(FreezesItself):
    """Begins with its norm in evaluation: what is so before the fit stays so."""

    def __init__(self) -> None:
        super().__init__()
        self.norm.eval()


def test_what_is_in_evaluation_before_the_fit_stays_so(fit_normed):
    fit_normed(None, f"--model.net={__name__}.SetAside", epochs=1)
    assert {name for name, training in Watch.seen[-1].items() if not training} == ENCODER | {"norm"}
