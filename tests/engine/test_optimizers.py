"""Groups of parameters, and schedulers: as long as the run, of one's own, on a plateau."""

import csv
import functools
import math
import re
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch.optim import SGD, Optimizer
from torch.optim.lr_scheduler import ConstantLR, CosineAnnealingLR, ExponentialLR, LRScheduler, OneCycleLR, SequentialLR

from src.engine.errors import UserError
from src.engine.module.optimizers import WarmupCosine, build_optimizer, fill_lengths, param_groups, run_length
from src.module import LitModule
from tests import stopping
from tests.conftest import CONFIGS, SMALL


class Net(nn.Module):
    """Two layers, a norm and a head."""

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 4))
        self.norm = nn.LayerNorm(4)
        self.head = nn.Linear(4, 2)


NO_DECAY = {"names": ["*.bias", "*norm*"], "weight_decay": 0.0}
HEAD = {"names": ["*head.*"], "lr": 0.5}
DEEP = {"names": ["*layers.0.*"], "lr_scale": 0.1}


def adam(parameters):
    return torch.optim.AdamW(parameters, lr=0.01, weight_decay=0.3)


def names(groups, net):
    by_id = {id(parameter): name for name, parameter in net.named_parameters()}
    return [[by_id[id(parameter)] for parameter in group["params"]] for group in groups]


def test_groups_merge_their_options_and_the_later_one_wins():
    net = Net()
    made = param_groups(net, [NO_DECAY, DEEP, HEAD])
    assert names(made, net) == [
        ["layers.1.weight"],
        ["layers.1.bias", "norm.weight", "norm.bias"],
        ["layers.0.bias"],
        ["head.bias"],
        ["layers.0.weight"],
        ["head.weight"],
    ]
    options = [{key: value for key, value in group.items() if key != "params"} for group in made]
    none, slow, fast = {"weight_decay": 0.0}, {"lr_scale": 0.1}, {"lr": 0.5}
    assert options == [{}, none, none | slow, none | fast, slow, fast]
    # Of two rates the later one counts, in whichever form.
    whole = {"names": ["*"], "lr": 0.2, "weight_decay": 0.1}
    rates = [(group["lr"], group["weight_decay"]) for group in build_optimizer(adam, net, [whole, DEEP]).param_groups]
    assert rates == [(0.2, 0.1), (pytest.approx(0.001), 0.1)]

    # A tied weight has several names.
    net.head.weight = net.layers[1].weight = nn.Parameter(torch.zeros(4, 4))
    (_, head) = param_groups(net, [{"names": ["head.*"], "lr": 0.5}])
    assert [each.shape for each in head["params"]] == [(4, 4), (2,)]


WRONG = {
    "a name that is not there": ({"names": ["haed.*"]}, r"\[1\]: no parameter is called haed.\*\. They"),
    "one name": ({"names": "*.bias"}, r"\[1\] needs a list `names`"),
    "nothing left": ({"names": ["*"], "weight_decay": 0.1}, r"\[0\]: weight_decay has no effect"),
    "two rates": ({"names": ["head.*"], "lr": 1, "lr_scale": 2}, r"\[1\]: lr has no effect"),
    "a mistyped option": ({"names": ["head.*"], "weigth_decay": 0}, "AdamW has no option weigth_decay. It has lr"),
    "no number": ({"names": ["head.*"], "lr": "fast"}, "lr must be a number; got 'fast'"),
}


@pytest.mark.parametrize(("group", "hint"), WRONG.values(), ids=WRONG.keys())
def test_a_mistake_in_groups_is_refused(group, hint):
    with pytest.raises(UserError, match=hint):
        build_optimizer(adam, Net(), [NO_DECAY, group])


@pytest.mark.parametrize(
    ("groups", "scheduler"),
    [
        ([HEAD, DEEP], functools.partial(OneCycleLR, max_lr=[0.1, 0.2, 0.3], total_steps=9)),
        ([HEAD], functools.partial(WarmupCosine, total_steps=9)),  # begins with no rate for all groups
    ],
)
def test_a_scheduler_has_a_rate_for_each_group(groups, scheduler):
    LitModule(Net(), nn.MSELoss(), adam, groups=groups, scheduler=scheduler).configure_optimizers()
    same = functools.partial(OneCycleLR, max_lr=0.1, total_steps=9)
    with pytest.raises(UserError, match=rf"OneCycleLR gives all groups .* for each of the {len(groups) + 1} groups"):
        LitModule(Net(), nn.MSELoss(), adam, groups=groups, scheduler=same).configure_optimizers()


FIT = ("fit", "--config", SMALL, "--trainer.max_epochs=5", "--data.passes=4")
PLATEAU = "--model.scheduler=lightning.pytorch.cli.ReduceLROnPlateau"


def own_sgd(parameters, lr: float = 0.25) -> Optimizer:
    return SGD(parameters, lr=lr)


def own_schedule(optimizer: Optimizer) -> LRScheduler:
    return SequentialLR(optimizer, [ConstantLR(optimizer, 1.0), ExponentialLR(optimizer, 0.1)], [2])


def rates(run="runs/xor/version_0"):
    """The learning rate of each epoch."""
    with Path(run, "metrics.csv").open(newline="") as file:
        return [float(row["lr"]) for row in csv.DictReader(file) if row["lr"]]


def test_the_fragment_warms_up_and_ends_at_nothing(cli):
    done = cli(*FIT, "--config", CONFIGS / "scheduler/warmup_cosine.yaml")
    assert done.code == 0, done.err
    # 2 of 20 steps up to 0.5, then 18 down.
    expected = [0.25 * (1 + math.cos(math.pi * (step - 2) / 18)) for step in (4, 8, 12, 16, 20)]
    assert rates() == pytest.approx(expected, abs=1e-9)


def test_functions_of_ones_own_are_named_by_their_path(cli):
    done = cli(*FIT, f"--model.optimizer={__name__}.own_sgd", f"--model.scheduler={__name__}.own_schedule")
    assert done.code == 0, done.err
    assert rates() == pytest.approx([0.25, 0.25, 0.025, 0.0025, 0.00025])
    assert cli("test", "--ckpt_path=runs/xor/version_0").code == 0


@pytest.mark.parametrize(
    ("options", "looks"),
    [
        (["--model.scheduler.monitor=train/loss"], 5),
        (["--model.scheduler.monitor=val/acc", "--model.scheduler.mode=max", "--trainer.check_val_every_n_epoch=2"], 2),
    ],
)
def test_a_plateau_lowers_the_learning_rate(cli, options, looks):
    still = ("--model.scheduler.patience=0", "--model.scheduler.threshold=10", "--model.scheduler.factor=0.5")
    done = cli(*FIT, PLATEAU, *still, "--model.scheduler.threshold_mode=abs", *options)
    assert done.code == 0, done.err
    # The first value is the best; no other is better by 10.
    assert rates()[-1] == pytest.approx(0.5 * 0.5 ** (looks - 1))


@pytest.mark.parametrize(
    ("options", "hint"),
    [
        (
            [PLATEAU, "--model.scheduler.monitor=val/loss", "--model.scheduler_interval=step"],
            "interval to epoch",
        ),
        (["--model.scheduler=ReduceLROnPlateau"], "lightning.pytorch.cli.ReduceLROnPlateau"),
    ],
)
def test_a_plateau_that_cannot_be_is_one_line(cli, options, hint):
    done = cli(*FIT, *options)
    assert done.code != 0
    assert hint in done.err
    assert "Traceback" not in done.err


@pytest.mark.parametrize(
    ("interval", "ways"), [("epoch", ["max_epochs"]), ("step", ["max_steps", "max_epochs", "limit_train_batches"])]
)
def test_a_schedule_as_long_as_a_run_without_an_end_is_refused(interval, ways):
    trainer = SimpleNamespace(estimated_stepping_batches=math.inf, max_epochs=-1)
    module = SimpleNamespace(schedule_length=None, scheduler_interval=interval, trainer=trainer)
    with pytest.raises(UserError) as refused:
        run_length(module)
    assert re.findall(r"--trainer\.(\w+)", str(refused.value)) == ways


GROUPS = [
    {"names": ["net.0.*"], "lr": 0},
    {"names": ["*.bias"], "lr_scale": 0.1, "betas": [0.5, 0.9], "amsgrad": True, "fused": None},
]


def test_groups_and_a_schedule_as_long_as_the_run_resume_to_the_bit_and_not_beyond(tmp_path, capfd):
    made = stopping.config(scheduler=("CosineAnnealingLR", {"T_max": None}), interval="step")
    made["model"]["groups"] = GROUPS
    whole = stopping.fit(tmp_path / "whole", made)
    stopped = stopping.fit(tmp_path / "stopped", made, ("on_train_batch_end", 17))
    first = torch.load(stopped / "checkpoints/last.ckpt", weights_only=True)["state_dict"]
    assert stopping.resume(stopped) == 0
    assert stopping.run_differences(whole, stopped) == []
    last = torch.load(whole / "checkpoints/last.ckpt", weights_only=True)["state_dict"]
    assert [torch.equal(first[name], last[name]) for name in ("net.0.weight", "net.2.bias")] == [True, False]
    row = {name: float(value) for name, value in stopping.rows(whole)[0].items() if name.startswith("lr")}
    assert (row["lr/1"], row["lr/2"]) == (0.0, pytest.approx(0.1 * row["lr"]))
    assert row["lr"] == pytest.approx(0.01 * (1 + math.cos(math.pi / 3)) / 2)
    capfd.readouterr()
    assert stopping.resume(whole, "--trainer.max_epochs=4") == 1
    assert "ends at step 36" in capfd.readouterr().err


def test_only_what_is_null_is_filled():
    given = functools.partial(CosineAnnealingLR, T_max=3), functools.partial(OneCycleLR, total_steps=None, epochs=3)
    assert [fill_lengths(each, pytest.fail) for each in given] == list(given)
    assert fill_lengths(functools.partial(CosineAnnealingLR, T_max=None), lambda: 20).keywords == {"T_max": 20}
