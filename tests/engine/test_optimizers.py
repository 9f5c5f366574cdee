"""Options for groups of parameters, and schedulers: as long as the run, one after the other, on a plateau."""

import csv
import functools
import math
import re
from pathlib import Path

import pytest
import torch
import yaml
from lightning.pytorch import LightningDataModule
from torch import nn
from torch.optim import SGD, Optimizer
from torch.optim.lr_scheduler import CosineAnnealingLR, LinearLR, LRScheduler, OneCycleLR, StepLR
from torch.utils.data import DataLoader, IterableDataset

from src.engine.errors import UserError
from src.engine.module.optimizers import (
    SequentialSchedule,
    WarmupCosine,
    build_optimizer,
    build_scheduler,
    fill_lengths,
    param_groups,
)
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
HEAD = {"names": ["head.*"], "lr": 0.5}
DEEP = {"names": ["layers.0.*"], "lr_scale": 0.1}


def adam(parameters):
    return torch.optim.AdamW(parameters, lr=0.01, weight_decay=0.3)


def names(groups, net):
    by_id = {id(parameter): name for name, parameter in net.named_parameters()}
    return [[by_id[id(parameter)] for parameter in group["params"]] for group in groups]


def test_a_parameter_gets_the_options_of_all_groups_that_match_it_and_the_later_one_wins():
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


def test_a_tied_weight_is_matched_by_each_of_its_names():
    net = Net()
    net.head.weight = net.layers[1].weight = nn.Parameter(torch.zeros(4, 4))
    (_, head) = param_groups(net, [{"names": ["head.*"], "lr": 0.5}])
    assert [each.shape for each in head["params"]] == [(4, 4), (2,)]


@pytest.mark.parametrize("groups", [None, []])
def test_without_groups_the_optimizer_gets_the_parameters_as_they_are(groups):
    net, given = Net(), []
    build_optimizer(lambda parameters: given.extend(parameters) or adam(given), net, groups)
    assert [id(parameter) for parameter in given] == [id(parameter) for parameter in net.parameters()]


WRONG = {
    "a name that is not there": ({"names": ["haed.*"]}, r"\[1\]: no parameter is called haed.\*; near are head\."),
    "no names": ({"lr": 0.1}, r"\[1\] needs a list `names`"),
    "one name": ({"names": "*.bias"}, r"\[1\] needs a list `names`"),
    "nothing left": ({"names": ["*"], "weight_decay": 0.1}, r"\[0\]: later groups replace weight_decay for all"),
    "two rates": ({"names": ["head.*"], "lr": 1, "lr_scale": 2}, r"\[1\] has both lr and lr_scale"),
    "a mistyped option": (
        {"names": ["head.*"], "weigth_decay": 0},
        "AdamW has no option weigth_decay. Its options",
    ),
    "no number": ({"names": ["head.*"], "lr": "fast"}, "lr must be a number; got 'fast'"),
}


@pytest.mark.parametrize(("group", "hint"), WRONG.values(), ids=WRONG.keys())
def test_a_mistake_in_groups_is_one_clear_error(group, hint):
    with pytest.raises(UserError, match=hint):
        build_optimizer(adam, Net(), [NO_DECAY, group])


class Own(SGD):
    """Reads an option of its own, as optimizers outside torch do."""


def test_an_optimizer_of_ones_own_may_read_what_it_likes():
    optimizer = build_optimizer(lambda groups: Own(groups, lr=0.1), Net(), [{"names": ["head.*"], "orthogonal": True}])
    assert optimizer.param_groups[1]["orthogonal"]


def test_a_scheduler_has_a_rate_for_each_group():
    optimizer = build_optimizer(adam, Net(), [HEAD, DEEP])
    with pytest.raises(UserError, match=r"OneCycleLR gives all groups .* for each of the 3 groups"):
        build_scheduler(lambda made: OneCycleLR(made, 0.1, total_steps=9), optimizer)
    optimizer = build_optimizer(adam, Net(), [HEAD, DEEP])
    build_scheduler(lambda made: OneCycleLR(made, [0.1, 0.2, 0.3], total_steps=9), optimizer)
    assert [group["max_lr"] for group in optimizer.param_groups] == [0.1, 0.2, 0.3]
    optimizer = build_optimizer(adam, Net(), [HEAD, DEEP])
    scheduler = build_scheduler(lambda made: StepLR(made, 1, gamma=0.5), optimizer)
    optimizer.step()
    scheduler.step()
    assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([0.005, 0.25, 0.0005])
    # A warm-up begins with no rate for all of them.
    build_scheduler(lambda made: WarmupCosine(made, 9), build_optimizer(adam, Net(), [HEAD]))


GROUPS = [
    {"names": ["net.0.*"], "lr": 0},
    {"names": ["*.bias"], "lr_scale": 0.1, "betas": [0.5, 0.9], "amsgrad": True, "fused": None},
]


def experiment(tmp_path, groups):
    made = stopping.config(scheduler=("torch.optim.lr_scheduler.StepLR", {"step_size": 1, "gamma": 0.5}))
    made["model"]["groups"] = groups
    (tmp_path / "sums.yaml").write_text(yaml.safe_dump(made))
    return ("fit", "--config", "sums.yaml")


def saved(path="runs/sums/version_0"):
    return torch.load(f"{path}/checkpoints/last.ckpt", weights_only=True)


def test_groups_train_each_at_its_rate_and_a_resumed_run_ends_with_the_same_bits(cli, tmp_path):
    assert cli(*experiment(tmp_path, GROUPS)).code == 0
    assert cli(*experiment(tmp_path, GROUPS), "--trainer.max_epochs=2").code == 0
    short = saved("runs/sums/version_1")["state_dict"]
    assert cli("fit", "--ckpt_path", "runs/sums/version_1", "--trainer.max_epochs=3").code == 0
    assert stopping.run_differences(*(tmp_path / f"runs/sums/version_{number}" for number in range(2))) == []
    assert torch.equal(saved()["state_dict"]["net.0.weight"], short["net.0.weight"])
    assert not torch.equal(saved()["state_dict"]["net.2.bias"], short["net.2.bias"])
    first = stopping.rows(tmp_path / "runs/sums/version_0")[0]
    assert float(first["lr/1"]) == 0
    assert float(first["lr/2"]) == pytest.approx(0.1 * float(first["lr"]))
    done = cli(*experiment(tmp_path, None), "--model.groups", '[{names: ["net.0.*"], lr: 1e-3}]')
    assert done.code == 0, done.err
    assert saved("runs/sums/version_2")["optimizer_states"][0]["param_groups"][1]["initial_lr"] == 0.001


def test_a_mistake_in_yaml_is_one_line(cli, tmp_path):
    done = cli(*experiment(tmp_path, [{"names": ["head.*"], "lr": 0.1}]))
    assert done.code == 1
    (line,) = [line for line in done.err.splitlines() if "Seed set" not in line]
    assert "model.groups[0]: no parameter is called head.*; near are net." in line


FIT = ("fit", "--config", SMALL, "--trainer.max_epochs=5", "--data.passes=4")
PLATEAU = "--model.scheduler=lightning.pytorch.cli.ReduceLROnPlateau"
COSINE = {"class_path": "CosineAnnealingLR", "init_args": {"T_max": None}}
SEQUENCE = {
    "milestones": [0.25],
    "schedulers": [{"class_path": "LinearLR", "init_args": {"total_iters": None}}, COSINE],
}


def half(epoch: int) -> float:
    return 0.5**epoch


def own_sgd(parameters, lr: float = 0.25) -> Optimizer:
    return SGD(parameters, lr=lr)


def own_schedule(optimizer: Optimizer) -> LRScheduler:
    return torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.1)


def unsaid(parameters):
    return SGD(parameters, lr=0.25)


def rates(run="runs/xor/version_0"):
    """The learning rate of each epoch."""
    with Path(run, "metrics.csv").open(newline="") as file:
        return [float(row["lr"]) for row in csv.DictReader(file) if row["lr"]]


def write(path, scheduler, interval="epoch"):
    path.write_text(yaml.safe_dump({"model": {"scheduler": scheduler, "scheduler_interval": interval}}))


def test_the_fragment_warms_up_and_ends_at_nothing(cli):
    done = cli(*FIT, "--config", CONFIGS / "scheduler/warmup_cosine.yaml")
    assert done.code == 0, done.err
    # 2 of 20 steps up to 0.5, then 18 down.
    expected = [0.25 * (1 + math.cos(math.pi * (step - 2) / 18)) for step in (4, 8, 12, 16, 20)]
    assert rates() == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize(("interval", "moves"), [("epoch", 5), ("step", 20)])
def test_a_length_left_null_is_that_of_the_run_in_what_the_scheduler_counts(cli, tmp_path, interval, moves):
    write(tmp_path / "cosine.yaml", COSINE, interval)
    done = cli(*FIT, "--config", "cosine.yaml")
    assert done.code == 0, done.err
    each = moves // 5
    assert rates() == pytest.approx([0.25 * (1 + math.cos(math.pi * each * k / moves)) for k in range(1, 6)], abs=1e-9)


@pytest.mark.parametrize(
    ("milestones", "interval", "hint"),
    [([50], "step", "milestones [50] do not rise"), ([0.01], "epoch", "do not rise"), ([1, 2], "step", "need 1 mile")],
)
def test_milestones_that_do_not_fit_the_run_are_refused(cli, tmp_path, milestones, interval, hint):
    parts = SEQUENCE | {"milestones": milestones}
    write(tmp_path / "parts.yaml", {"class_path": "SequentialSchedule", "init_args": parts}, interval)
    done = cli(*FIT, "--config", "parts.yaml")
    assert done.code == 1
    assert hint in done.err
    assert "Traceback" not in done.err


def test_functions_of_ones_own_are_named_by_their_path(cli):
    lambdas = ("--model.scheduler=LambdaLR", f"--model.scheduler.lr_lambda={__name__}.half")
    done = cli(*FIT, f"--model.optimizer={__name__}.own_sgd", *lambdas)
    assert done.code == 0, done.err
    assert rates() == pytest.approx([0.25 * 0.5**k for k in range(1, 6)])
    assert cli("test", "--ckpt_path=runs/xor/version_0").code == 0
    done = cli(*FIT, f"--model.scheduler={__name__}.own_schedule")
    assert done.code == 0, done.err
    assert rates("runs/xor/version_2") == pytest.approx([0.5 * 0.1**k for k in range(1, 6)])


@pytest.mark.parametrize(
    ("options", "hint"),
    [
        (["--model.optimizer={}.unsaid"], "unsaid does not say what it returns: def unsaid(...) -> Optimizer"),
        (["--model.scheduler={}.unsaid"], "def unsaid(...) -> LRScheduler"),
        (["--model.optimizer={}.own_sgd", "--model.optimizer.lr=1"], "takes no options here"),
    ],
)
def test_a_function_that_cannot_be_taken_is_one_line(cli, options, hint):
    done = cli(*FIT, *(option.format(__name__) for option in options))
    assert done.code == 1
    assert hint in done.err
    assert len(done.err.splitlines()) == 1


PLATEAUS = {
    "a loss": ["--model.scheduler.monitor=train/loss"],
    "a metric to maximise": ["--model.scheduler.monitor=val/acc", "--model.scheduler.mode=max"],
    "every second epoch": [
        "--model.scheduler.monitor=val/loss",
        "--trainer.check_val_every_n_epoch=2",
        "--trainer.max_epochs=6",
    ],
}


@pytest.mark.parametrize("name", PLATEAUS)
def test_a_plateau_lowers_the_learning_rate(cli, name):
    still = ("--model.scheduler.patience=0", "--model.scheduler.threshold=10", "--model.scheduler.factor=0.5")
    done = cli(*FIT, PLATEAU, *still, "--model.scheduler.threshold_mode=abs", *PLATEAUS[name])
    assert done.code == 0, done.err
    # The first value is the best; no other is better by 10.
    looks = 3 if name == "every second epoch" else 5
    assert rates()[-1] == pytest.approx(0.5 * 0.5 ** (looks - 1))


@pytest.mark.parametrize(
    ("options", "hint"),
    [
        ([PLATEAU, "--model.scheduler.monitor=val/loss", "--model.scheduler_interval=step"], "interval epoch"),
        ([PLATEAU, "--model.scheduler.monitor=val/acc"], "Set mode: max"),
        ([PLATEAU, "--model.scheduler.monitor=val/los"], "val/los which is not available"),
        ([PLATEAU], "--model.scheduler.monitor VALUE"),
        (["--model.scheduler=ReduceLROnPlateau"], "lightning.pytorch.cli.ReduceLROnPlateau"),
        (["--model.scheduler=torch.optim.lr_scheduler.ReduceLROnPlateau"], "Name lightning.pytorch.cli.ReduceLROnPl"),
    ],
)
def test_a_plateau_that_cannot_be_is_one_line(cli, options, hint):
    done = cli(*FIT, *options)
    assert done.code != 0
    assert hint in done.err
    assert "Traceback" not in done.err


@pytest.mark.parametrize("interval", ["step", "epoch"])
def test_a_schedule_as_long_as_a_run_without_an_end_is_refused(cli, interval):
    endless = ("--trainer.max_epochs=-1", "--trainer.max_time=00:00:00:01", f"--model.scheduler_interval={interval}")
    cosine = (*FIT, "--model.scheduler=CosineAnnealingLR", "--model.scheduler.T_max=null", *endless)
    done = cli(*cosine)
    assert done.code == 1
    assert ("Set --trainer.max_epochs" if interval == "epoch" else "or --trainer.max_epochs") in done.err
    assert len(done.err.splitlines()) == 1
    assert cli(*cosine, "--trainer.max_epochs=2" if interval == "epoch" else "--trainer.max_steps=5").code == 0


class Stream(IterableDataset):
    """40 rows; nobody knows it before."""

    def __iter__(self):
        for number in range(40):
            yield torch.ones(2) * (number % 2), torch.ones(1) * (number % 2)


class Streams(LightningDataModule):
    def train_dataloader(self):
        return DataLoader(Stream(), 4)

    val_dataloader = test_dataloader = train_dataloader


def test_for_a_stream_the_message_names_ways_that_work(cli):
    cycle = ("--model.scheduler=OneCycleLR", "--model.scheduler.max_lr=0.1", "--model.scheduler.total_steps=null")
    fit = ("fit", "--config", SMALL, f"--data={__name__}.Streams", *cycle)
    fit += ("--model.scheduler_interval=step", "--trainer.max_epochs=2", "--test_after_fit=false")
    done = cli(*fit)
    assert done.code == 1
    ways = re.findall(r"--trainer\.\w+", done.err)
    assert ways == ["--trainer.max_steps", "--trainer.max_epochs", "--trainer.limit_train_batches"]
    for number, (way, steps, accumulate) in enumerate(((ways[0], 20, 1), (ways[2], 10, 2))):
        done = cli(*fit, f"{way}={steps}", f"--trainer.accumulate_grad_batches={accumulate}")
        assert done.code == 0, done.err
        checkpoint = saved(sorted(Path("runs/xor").iterdir())[-1])
        assert checkpoint["schedule_length"] == checkpoint["global_step"] == 20 // accumulate, number


@pytest.mark.parametrize(
    "scheduler", [("SequentialSchedule", SEQUENCE), ("CosineAnnealingLR", {"T_max": None}), ("WarmupCosine", {})]
)
def test_a_schedule_as_long_as_the_run_resumes_to_the_bit_and_not_beyond(tmp_path, capfd, scheduler):
    made = stopping.config(scheduler=scheduler, interval="step")
    whole = stopping.fit(tmp_path / "whole", made)
    stopped = stopping.fit(tmp_path / "stopped", made, ("on_train_batch_end", 17))
    assert stopping.resume(stopped) == 0
    assert stopping.run_differences(whole, stopped) == []
    capfd.readouterr()
    assert stopping.resume(whole, "--trainer.max_epochs=4") == 1
    assert "ends at step 36, with these options the run would go to 48" in capfd.readouterr().err


def test_only_what_is_null_is_filled():
    def unknown():
        raise AssertionError("asked")

    sgd = SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    for known in (
        functools.partial(CosineAnnealingLR, T_max=3),
        functools.partial(OneCycleLR, max_lr=1.0, total_steps=None, epochs=3, steps_per_epoch=2),
    ):
        fill_lengths(known, unknown)(sgd)
    parts = [functools.partial(LinearLR, total_iters=None), functools.partial(CosineAnnealingLR, T_max=None)]
    sequence = functools.partial(SequentialSchedule, schedulers=parts, milestones=[0.3])
    state = fill_lengths(sequence, lambda: 20)(sgd).state_dict()
    assert state["_milestones"] == [6]
    assert [state["_schedulers"][0]["total_iters"], state["_schedulers"][1]["T_max"]] == [6, 14]
