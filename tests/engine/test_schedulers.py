"""Schedulers by torch's names in YAML: of several parts, as long as the run, on a plateau, made by a function."""

import csv
import functools
import math
import re
from pathlib import Path

import pytest
import torch
import yaml
from lightning.pytorch import LightningDataModule
from torch.optim import SGD, Optimizer
from torch.optim.lr_scheduler import CosineAnnealingLR, LinearLR, LRScheduler, OneCycleLR, SequentialLR
from torch.utils.data import DataLoader, IterableDataset

from src.engine.config.instantiate import construct
from src.engine.errors import UserError
from src.engine.module.schedulers import fill_length, needs_length
from tests import stopping
from tests.conftest import CONFIGS, SMALL

FIT = ("fit", "--config", SMALL, "--trainer.max_epochs=5", "--data.passes=4")
WARMUP = ("--config", CONFIGS / "scheduler/warmup_cosine.yaml")
PLATEAU = "torch.optim.lr_scheduler.ReduceLROnPlateau"


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
    done = cli(*FIT, *WARMUP)
    assert done.code == 0, done.err
    # 2 of 20 steps up to 0.5, then 18 down.
    expected = [0.25 * (1 + math.cos(math.pi * (step - 2) / 18)) for step in (4, 8, 12, 16, 20)]
    assert rates() == pytest.approx(expected, abs=1e-9)


def test_milestones_of_one_and_more_are_steps(cli):
    done = cli(*FIT, *WARMUP, "--model.scheduler.milestones=[12]")
    assert done.code == 0, done.err
    assert rates()[2] == pytest.approx(0.5)
    assert rates()[-1] == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize(("milestones", "interval"), [("[50]", "step"), ("[0.01]", "epoch"), ("[0.5,0.2]", "step")])
def test_milestones_that_do_not_lie_within_the_run_are_refused(cli, milestones, interval):
    done = cli(*FIT, *WARMUP, f"--model.scheduler.milestones={milestones}", f"--model.scheduler_interval={interval}")
    assert done.code == 1
    assert "milestones" in done.err
    assert "Traceback" not in done.err


@pytest.mark.parametrize(("interval", "moves"), [("epoch", 5), ("step", 20)])
def test_a_length_left_null_is_that_of_the_run_in_what_the_scheduler_counts(cli, tmp_path, interval, moves):
    write(tmp_path / "cosine.yaml", {"class_path": "CosineAnnealingLR", "init_args": {"T_max": None}}, interval)
    done = cli(*FIT, "--config", "cosine.yaml")
    assert done.code == 0, done.err
    each = moves // 5
    assert rates() == pytest.approx([0.25 * (1 + math.cos(math.pi * each * k / moves)) for k in range(1, 6)], abs=1e-9)


def test_schedulers_in_a_chain_multiply(cli, tmp_path):
    parts = [
        {"class_path": "ExponentialLR", "init_args": {"gamma": 0.5}},
        {"class_path": "torch.optim.lr_scheduler.StepLR", "init_args": {"step_size": 1, "gamma": 0.1}},
    ]
    write(tmp_path / "chain.yaml", {"class_path": "ChainedScheduler", "init_args": {"schedulers": parts}})
    done = cli(*FIT, "--config", "chain.yaml")
    assert done.code == 0, done.err
    assert rates() == pytest.approx([0.5 * 0.05**k for k in range(1, 6)])


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
    assert done.code == 2
    assert hint in done.err
    assert len(done.err.splitlines()) == 1


def test_options_for_a_function_in_a_file_are_refused_with_the_way(cli, tmp_path):
    optimizer = {"class_path": f"{__name__}.own_sgd", "init_args": {"lr": 0.1}}
    (tmp_path / "own.yaml").write_text(yaml.safe_dump({"model": {"optimizer": optimizer}}))
    done = cli(*FIT, "--config", "own.yaml")
    assert done.code == 2
    assert f"{__name__}.own_sgd is a function, which takes no options here" in done.err
    assert len(done.err.splitlines()) == 1


PLATEAUS = {
    "torch's path": [],
    "with the metric": ["--model.scheduler.monitor=train/loss"],
    "a metric to maximise": ["--model.scheduler.monitor=val/acc", "--model.scheduler.mode=max"],
    "every second epoch": ["--trainer.check_val_every_n_epoch=2", "--trainer.max_epochs=6"],
}


@pytest.mark.parametrize("name", PLATEAUS)
def test_a_plateau_lowers_the_learning_rate(cli, name):
    still = ("--model.scheduler.patience=0", "--model.scheduler.threshold=10", "--model.scheduler.factor=0.5")
    done = cli(*FIT, f"--model.scheduler={PLATEAU}", *still, "--model.scheduler.threshold_mode=abs", *PLATEAUS[name])
    assert done.code == 0, done.err
    # The first value is the best; no other is better by 10.
    looks = 3 if name == "every second epoch" else 5
    assert rates()[-1] == pytest.approx(0.5 * 0.5 ** (looks - 1))


@pytest.mark.parametrize(
    ("options", "hint"),
    [
        ([f"--model.scheduler={PLATEAU}", "--model.scheduler_interval=step"], "Set --model.scheduler_interval epoch"),
        ([f"--model.scheduler={PLATEAU}", "--model.scheduler.monitor=val/acc"], "Set mode: max"),
        ([f"--model.scheduler={PLATEAU}", "--model.scheduler.monitor=val/los"], "val/los which is not available"),
        (["--model.scheduler=ReduceLROnPlateau"], f"Write one of {PLATEAU}, lightning.pytorch.cli.ReduceLROnPlateau"),
        (["--model.scheduler=lightning.pytorch.cli.ReduceLROnPlateau"], "--model.scheduler.monitor VALUE"),
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
    done = cli(*FIT, "--model.scheduler=CosineAnnealingLR", *endless)
    assert done.code == 1
    assert ("Set --trainer.max_epochs" if interval == "epoch" else "or --trainer.max_epochs") in done.err
    assert len(done.err.splitlines()) == 1
    assert cli(*FIT, "--model.scheduler=CosineAnnealingLR", *endless, "--trainer.max_epochs=2").code == 0
    if interval == "step":
        assert cli(*FIT, "--model.scheduler=CosineAnnealingLR", *endless, "--trainer.max_steps=5").code == 0


class Stream(IterableDataset):
    """40 rows; nobody knows it before."""

    def __iter__(self):
        for number in range(40):
            yield torch.ones(2) * (number % 2), torch.ones(1) * (number % 2)


class Streams(LightningDataModule):
    def train_dataloader(self):
        return DataLoader(Stream(), 4)

    def val_dataloader(self):
        return DataLoader(Stream(), 4)

    test_dataloader = val_dataloader


ONE_CYCLE = ("OneCycleLR", "--model.scheduler.max_lr=0.1", "--model.scheduler.total_steps=null")
LONG_AS_THE_RUN = {
    "cycle": ONE_CYCLE,
    "cosine": ("CosineAnnealingLR",),
    "line": ("LinearLR", "--model.scheduler.total_iters=null"),
}


@pytest.mark.parametrize("name", LONG_AS_THE_RUN)
def test_for_a_stream_the_message_names_ways_that_work(cli, name):
    scheduler, *more = LONG_AS_THE_RUN[name]
    fit = ("fit", "--config", SMALL, f"--data={__name__}.Streams", f"--model.scheduler={scheduler}", *more)
    fit += ("--model.scheduler_interval=step", "--trainer.max_epochs=2", "--test_after_fit=false")
    done = cli(*fit)
    assert done.code == 1
    (line,) = [line for line in done.err.splitlines() if line.startswith("error")]
    ways = re.findall(r"--trainer\.\w+", line)
    assert ways == ["--trainer.max_steps", "--trainer.limit_train_batches"]
    for way, steps, accumulate in ((ways[0], 20, 1), (ways[1], 10, 1), (ways[1], 10, 2)):
        done = cli(*fit, f"{way}={steps}", f"--trainer.accumulate_grad_batches={accumulate}")
        assert done.code == 0, done.err
        saved = torch.load(sorted(Path("runs/xor").iterdir())[-1] / "checkpoints/last.ckpt", weights_only=True)
        assert saved["schedule_length"] == saved["global_step"] == 20 // accumulate


SEQUENCE = {
    "milestones": [0.25],
    "schedulers": [{"class_path": "LinearLR", "init_args": {"total_iters": None}}, {"class_path": "CosineAnnealingLR"}],
}


@pytest.mark.parametrize("scheduler", [("SequentialLR", SEQUENCE), ("CosineAnnealingLR", {})])
def test_a_schedule_as_long_as_the_run_goes_on_to_the_bit_and_not_beyond(tmp_path, capfd, monkeypatch, scheduler):
    experiment = stopping.config(scheduler=scheduler, interval="step")
    whole = stopping.fit(tmp_path / "whole", experiment)
    stopped = stopping.fit(tmp_path / "stopped", experiment, ("on_train_batch_end", 17))
    assert stopping.resume(stopped) == 0
    assert stopping.run_differences(whole, stopped) == []
    capfd.readouterr()
    assert stopping.resume(whole, "--trainer.max_epochs=4") == 1
    assert "ends at step 36, with these options the run would go to 48" in capfd.readouterr().err


def test_only_what_is_null_is_filled():
    sgd = SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    assert not needs_length(functools.partial(construct, CosineAnnealingLR, T_max=3))
    assert not needs_length(functools.partial(OneCycleLR, max_lr=1.0, total_steps=None, epochs=3, steps_per_epoch=2))
    parts = [functools.partial(construct, LinearLR, total_iters=None), functools.partial(construct, CosineAnnealingLR)]
    parts[1].keywords["T_max"] = None
    sequence = functools.partial(construct, SequentialLR, schedulers=parts, milestones=[0.3])
    made = fill_length(sequence, 20)(sgd)
    assert made.state_dict()["_milestones"] == [6]
    assert [part["total_iters" if "total_iters" in part else "T_max"] for part in made.state_dict()["_schedulers"]] == [
        6,
        14,
    ]
    assert parts[1].keywords["T_max"] is None
    with pytest.raises(UserError, match="Set a number"):
        construct(CosineAnnealingLR, sgd)
