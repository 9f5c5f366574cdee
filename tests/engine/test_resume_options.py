"""Options given beside a checkpoint act, or one line says that and why they do not."""

import re

import pytest
import torch

from src.engine.resume_options import READ_AT_EACH_STEP
from tests.stopping import config, fit, resume, rows

STEP = ("torch.optim.lr_scheduler.StepLR", {"step_size": 1, "gamma": 0.5})
RESTARTS = ("torch.optim.lr_scheduler.CosineAnnealingWarmRestarts", {"T_0": 4})
ONE_CYCLE = ("torch.optim.lr_scheduler.OneCycleLR", {"max_lr": 0.1, "total_steps": 60})
EARLY = {
    "class_path": "lightning.pytorch.callbacks.EarlyStopping",
    "init_args": {"monitor": "val/loss", "patience": 2, "min_delta": 5.0},
}


def states(run):
    checkpoint = torch.load(run / "checkpoints/last.ckpt", weights_only=True)
    (group,) = checkpoint["optimizer_states"][0]["param_groups"]
    return group, (checkpoint["lr_schedulers"] or [None])[0]


@pytest.fixture
def begun(tmp_path, capfd):
    """Two epochs of a run, and what follows with other options: exit code, what was said, the run's folder."""

    def go_on(made, *options, epochs=4):
        run = fit(tmp_path, made)
        capfd.readouterr()
        code = resume(run, f"--trainer.max_epochs={epochs}", *options)
        out, err = capfd.readouterr()
        said = [line for line in (out + err).splitlines() if line.startswith(("changed", "error", "note: seed"))]
        return code, said, run

    return go_on


def test_the_same_options_say_nothing(begun):
    code, said, _ = begun(config(max_epochs=2, scheduler=STEP))
    assert (code, said) == (0, [])


def test_another_rate_acts_in_its_place_of_the_schedule(begun):
    code, said, run = begun(config(max_epochs=2, scheduler=STEP), "--model.optimizer.lr=0.04")
    assert (code, said) == (0, ["changed  optimizer.lr 0.01 to 0.04"])
    group, scheduler = states(run)
    assert group["lr"] == pytest.approx(0.04 * 0.5**4)
    assert scheduler["base_lrs"] == [0.04]
    assert [float(row["lr"]) for row in rows(run)] == pytest.approx([0.005, 0.0025, 0.005, 0.0025])


@pytest.mark.parametrize(
    ("option", "name", "value"), [("weight_decay=0.1", "weight_decay", 0.1), ("betas=[0.5, 0.9]", "betas", [0.5, 0.9])]
)
def test_other_options_of_the_optimizer_act(begun, option, name, value):
    code, said, run = begun(config(max_epochs=2), f"--model.optimizer.{option}")
    assert code == 0
    assert said[0].startswith(f"changed  optimizer.{name} ")
    found = states(run)[0][name]
    assert (list(found) if name == "betas" else found) == value


def test_other_options_of_the_schedule_act(begun):
    code, said, run = begun(config(max_epochs=2, scheduler=STEP), "--model.scheduler.gamma=0.1")
    assert (code, said) == (0, ["changed  scheduler.gamma 0.5 to 0.1"])
    assert states(run)[0]["lr"] == pytest.approx(0.01 * 0.5**2 * 0.1**2)


def test_the_peak_of_a_cycle_acts_and_the_rate_that_it_sets_is_told(begun):
    cycle = config(max_epochs=2, scheduler=ONE_CYCLE, interval="step")
    code, said, run = begun(cycle, "--model.scheduler.max_lr=0.2", "--model.optimizer.lr=0.5")
    assert code == 0
    assert said == ["changed  scheduler.max_lr 0.1 to 0.2; optimizer.lr has no effect: the schedule sets it"]
    assert states(run)[0]["max_lr"] == pytest.approx(0.2)


@pytest.mark.parametrize(
    ("before", "options", "named"),
    [
        (None, ["--model.optimizer=torch.optim.SGD", "--model.optimizer.lr=0.1"], "Adam for its optimizers.* SGD"),
        (STEP, ["--model.scheduler=null"], "StepLR for its schedulers.* none"),
        (
            None,
            ["--model.scheduler=torch.optim.lr_scheduler.StepLR", "--model.scheduler.step_size=1"],
            "none .* StepLR",
        ),
        (ONE_CYCLE, ["--model.scheduler.pct_start=0.6"], "scheduler.pct_start cannot change from .* to 0.6"),
        (RESTARTS, ["--model.scheduler.T_0=2"], "scheduler.T_0 cannot change from 4 to 2"),
        (None, ["--model.groups=[{names: ['*.bias'], weight_decay: 0.0}]"], "other groups of parameters"),
    ],
    ids=["optimizer", "no scheduler", "scheduler", "shape of a cycle", "first restart", "groups"],
)
def test_what_cannot_act_is_refused_and_the_run_left_as_it_was(begun, before, options, named):
    made = config(max_epochs=2, scheduler=before, interval="step" if before is ONE_CYCLE else "epoch")
    code, said, run = begun(made, *options)
    assert code == 1
    (line,) = said
    assert line.startswith("error: ")
    assert re.search(named, line), line
    assert "--transfer.weights" in line
    assert torch.load(run / "checkpoints/last.ckpt", weights_only=True)["epoch"] == 2


def test_more_patience_acts(begun):
    made = config(callbacks=(EARLY,), max_epochs=20)
    code, said, run = begun(made, "--trainer.callbacks.patience=5", epochs=20)
    assert (code, said) == (0, ["changed  patience 2 to 5"])
    assert len(rows(run)) == 6


def test_another_seed_is_told(begun):
    code, said, _ = begun(config(max_epochs=2), "--seed_everything=7")
    assert (code, said) == (0, ["note: seed_everything=7 has no effect: the run keeps 0"])


OTHERS = {
    "CosineAnnealingLR": ({"T_max": 20}, {"T_max": 8, "eta_min": 0.05}),
    "CosineAnnealingWarmRestarts": ({"T_0": 4}, {"T_mult": 2, "eta_min": 0.05}),
    "ExponentialLR": ({"gamma": 0.9}, {"gamma": 0.5}),
    "MultiStepLR": ({"milestones": [5, 8], "gamma": 0.9}, {"gamma": 0.5}),
    "PolynomialLR": ({"total_iters": 20}, {"total_iters": 8, "power": 3.0}),
    "ReduceLROnPlateau": (
        {"patience": 1, "threshold": 0.5},
        {"factor": 0.5, "patience": 5, "threshold": 1e-4, "cooldown": 4, "eps": 1.0},
    ),
    "StepLR": ({"step_size": 3}, {"step_size": 2, "gamma": 0.5}),
}


def rates(name, made, changed):
    """Of 16 steps, the options changed after three."""
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.ones(1))], lr=0.1)
    scheduler = getattr(torch.optim.lr_scheduler, name)(optimizer, **made)
    for step in range(16):
        optimizer.step()
        scheduler.step(*([1 - step / 100] if name == "ReduceLROnPlateau" else []))
        if step == 2:
            vars(scheduler).update(changed)
        yield optimizer.param_groups[0]["lr"]


@pytest.mark.parametrize("name", OTHERS)
def test_each_option_that_is_said_to_act_amid_a_schedule_acts(name):
    made, others = OTHERS[name]
    assert others.keys() == READ_AT_EACH_STEP[name]
    for option in others:
        assert [*rates(name, made, {})] != [*rates(name, made, {option: others[option]})], option


def test_all_schedules_are_tried():
    assert OTHERS.keys() == READ_AT_EACH_STEP.keys()
