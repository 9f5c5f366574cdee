"""Groups of parameters, and schedulers: as long as the run, of one's own, on a plateau."""

import functools
import math
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import yaml
from torch import nn
from torch.optim import SGD, Optimizer, lr_scheduler

from src.engine.errors import UserError
from src.engine.module.optimizers import WarmupCosine, build_optimizer, fill_lengths, param_groups
from src.module import LitModule
from tests import stopping
from tests.conftest import CONFIGS, SMALL


def net() -> nn.Module:
    layers = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 4))
    return nn.ModuleDict({"layers": layers, "norm": nn.LayerNorm(4), "head": nn.Linear(4, 2)})


NO_DECAY = {"names": ["*.bias", "*norm*"], "weight_decay": 0.0}
HEAD = {"names": ["*head.*"], "lr": 0.5}
DEEP = {"names": ["*layers.0.*"], "lr_scale": 0.1}


def adam(parameters):
    return torch.optim.AdamW(parameters, lr=0.01, weight_decay=0.3)


def test_groups_merge_their_options_and_the_later_one_wins():
    tied = net()
    names = {id(parameter): name for name, parameter in tied.named_parameters()}
    groups = param_groups(tied, [NO_DECAY, DEEP, HEAD])
    made = [([names[id(each)] for each in group.pop("params")], group) for group in groups]
    assert made == [
        (["layers.1.weight"], {}),
        (["layers.1.bias", "norm.weight", "norm.bias"], {"weight_decay": 0.0}),
        (["layers.0.bias"], {"weight_decay": 0.0, "lr_scale": 0.1}),
        (["head.bias"], {"weight_decay": 0.0, "lr": 0.5}),
        (["layers.0.weight"], {"lr_scale": 0.1}),
        (["head.weight"], {"lr": 0.5}),
    ]
    # Of two rates the later one counts, in whichever form.
    whole = {"names": ["*"], "lr": 0.2, "weight_decay": 0.1}
    rates = [(group["lr"], group["weight_decay"]) for group in build_optimizer(adam, tied, [whole, DEEP]).param_groups]
    assert rates == [(0.2, 0.1), (pytest.approx(0.001), 0.1)]

    # A tied weight has several names.
    tied.head.weight = tied.layers[1].weight = nn.Parameter(torch.zeros(4, 4))
    (_, head) = param_groups(tied, [{"names": ["head.*"], "lr": 0.5}])
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
        build_optimizer(adam, net(), [NO_DECAY, group])


def test_a_scheduler_has_a_rate_for_each_group():
    def configure(kind, **options):
        scheduler = functools.partial(kind, total_steps=9, **options)
        LitModule(net(), nn.MSELoss(), adam, groups=[HEAD, DEEP], scheduler=scheduler).configure_optimizers()

    configure(lr_scheduler.OneCycleLR, max_lr=[0.1, 0.2, 0.3])
    configure(WarmupCosine)  # begins with no rate for all groups
    with pytest.raises(UserError, match=r"OneCycleLR gives all groups .* for each of the 3 groups"):
        configure(lr_scheduler.OneCycleLR, max_lr=0.1)


def own_sgd(parameters, lr: float = 0.25) -> Optimizer:
    return SGD(parameters, lr=lr)


def own_schedule(optimizer: Optimizer) -> lr_scheduler.LRScheduler:
    parts = [lr_scheduler.ConstantLR(optimizer, 1.0), lr_scheduler.ExponentialLR(optimizer, 0.1)]
    return lr_scheduler.SequentialLR(optimizer, parts, [2])


OWN = [f"--model.optimizer={__name__}.own_sgd", f"--model.scheduler={__name__}.own_schedule"]
PLATEAU = [
    "--model.scheduler=lightning.pytorch.cli.ReduceLROnPlateau",
    *(f"--model.scheduler.{each}" for each in ("monitor=val/acc", "mode=max", "patience=0", "factor=0.5")),
    *("--model.scheduler.threshold=10", "--model.scheduler.threshold_mode=abs", "--trainer.check_val_every_n_epoch=2"),
]


@pytest.mark.parametrize(
    ("options", "rates"),
    [
        (OWN, [0.25, 0.25, 0.025, 0.0025, 0.00025]),
        (PLATEAU, [0.5, 0.5, 0.5, 0.25, 0.25]),  # of two looks the second is not better by 10
    ],
)
def test_a_schedule_that_the_command_line_names(cli, options, rates):
    done = cli("fit", "--config", SMALL, "--trainer.max_epochs=5", "--data.passes=4", *options)
    assert done.code == 0, done.err
    rows = stopping.rows(Path("runs/xor/version_0"))
    assert [float(row["lr"]) for row in rows if row["lr"]] == pytest.approx(rates)


GROUPS = [
    {"names": ["net.0.*"], "lr": 0},
    {"names": ["*.bias"], "lr_scale": 0.1, "betas": [0.5, 0.9], "amsgrad": True, "fused": None},
]


def test_groups_and_a_warm_up_as_long_as_the_run_resume_to_the_bit_and_not_beyond(tmp_path, capfd):
    made = stopping.config()
    made["model"] |= yaml.safe_load((CONFIGS / "scheduler/warmup_cosine.yaml").read_text())["model"]
    made["model"]["groups"] = GROUPS
    whole, killed = stopping.killed_at(("on_train_batch_end", 17), tmp_path, made)
    first = torch.load(killed / "checkpoints/last.ckpt", weights_only=True)["state_dict"]
    assert stopping.resume_diff(whole, killed) == []
    last = torch.load(whole / "checkpoints/last.ckpt", weights_only=True)["state_dict"]
    assert [torch.equal(first[name], last[name]) for name in ("net.0.weight", "net.2.bias")] == [True, False]
    found = [{name: float(value) for name, value in row.items() if value} for row in stopping.rows(whole)]
    # 3.6 of 36 steps up to 0.01, then down to nothing.
    expected = [0.01 * (1 + math.cos(math.pi * (step - 3.6) / 32.4)) / 2 for step in (12, 24, 36)]
    assert [row["lr"] for row in found] == pytest.approx(expected, abs=1e-9)
    assert [(row["lr/1"], row["lr/2"]) for row in found] == [(0.0, pytest.approx(0.1 * row["lr"])) for row in found]
    capfd.readouterr()
    assert stopping.resume(whole, "--trainer.max_epochs=4") == 1
    assert "ends at step 36" in capfd.readouterr().err


def test_a_warm_up_rises_and_falls_to_what_is_to_be_left():
    (factor,) = WarmupCosine(own_sgd(net().parameters()), total_steps=20, warmup=0.1, final=0.5).lr_lambdas
    assert [factor(step) for step in (0, 1, 2, 11, 20, 30)] == pytest.approx([0, 0.5, 1, 0.75, 0.5, 0.5])


def test_only_what_is_null_is_filled():
    cosine, cycle = lr_scheduler.CosineAnnealingLR, lr_scheduler.OneCycleLR
    given = functools.partial(cosine, T_max=3), functools.partial(cycle, total_steps=None, epochs=3)
    assert [fill_lengths(each, None) for each in given] == list(given)
    filled = fill_lengths(functools.partial(cosine, T_max=None), SimpleNamespace(schedule_length=20))
    assert filled.keywords == {"T_max": 20}
