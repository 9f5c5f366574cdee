"""Numbers of the optimizer that are given with a checkpoint take effect; any other change is rejected by name."""

import functools
import json
import re
import shutil

import pytest
import torch

from tests.stopping import config, early_stopping, fit, resume, rows

STEP = ("torch.optim.lr_scheduler.StepLR", {"step_size": 1, "gamma": 0.5})
ONE_CYCLE = ("torch.optim.lr_scheduler.OneCycleLR", {"max_lr": 0.1, "total_steps": None})
RUNS = {
    "step": config(max_epochs=1, scheduler=STEP),
    "one-cycle": config(max_epochs=1, scheduler=ONE_CYCLE, interval="step"),
    "early": config(max_epochs=20, callbacks=(early_stopping(patience=1, min_delta=5.0),)),
    "groups": config(max_epochs=1),
}
RUNS["groups"]["model"]["groups"] = [{"names": ["*.bias"], "lr": 0.5}]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    return functools.cache(lambda kind: fit(tmp_path_factory.mktemp("finished"), RUNS[kind]))


@pytest.fixture
def resumed(finished, tmp_path, capfd):
    """Resume a copy of a run with options; returns the exit code, the lines that report or reject, and the folder."""

    def run(kind, *options, epochs=2):
        folder = tmp_path / "run"
        shutil.copytree(finished(kind), folder)
        capfd.readouterr()
        code = resume(folder, f"--trainer.max_epochs={epochs}", *options)
        said = [line for line in "".join(capfd.readouterr()).splitlines() if line.startswith(("changed", "error"))]
        return code, said, folder

    return run


@pytest.mark.parametrize(
    ("kind", "options", "changed", "values"),
    [
        (
            "groups",
            ["--model.optimizer.lr=0.04", "--model.optimizer.betas=[0.5, 0.9]"],
            "optimizer.lr 0.01 to 0.04; optimizer.betas (0.9, 0.999) to (0.5, 0.9)",
            {"lr": [0.04, 0.5], "betas": [(0.5, 0.9)] * 2},
        ),
        ("step", ["--model.optimizer.weight_decay=0.1"], "optimizer.weight_decay 0.0 to 0.1", {"weight_decay": [0.1]}),
    ],
)
def test_numbers_take_effect_where_no_schedule_sets_them(resumed, kind, options, changed, values):
    code, said, run = resumed(kind, *options)
    assert code == 0
    assert said == [f"changed  {changed}"]
    groups = torch.load(run / "checkpoints/last.ckpt", weights_only=True)["optimizer_states"][0]["param_groups"]
    assert {name: [group[name] for group in groups] for name in values} == values


@pytest.mark.parametrize(
    ("kind", "options", "named"),
    [
        ("groups", ["--model.optimizer=torch.optim.SGD", "--model.optimizer.lr=0.1"], "optimizer .*Adam to .*SGD"),
        ("groups", ["--model.groups=[{names: ['*.bias'], weight_decay: 0.0}]"], "groups .*0.5.* to .*bias"),
        ("step", ["--model.optimizer.lr=0.04"], "optimizer.lr 0.01 to 0.04"),
        ("one-cycle", ["--model.optimizer.betas=[0.5, 0.9]"], "optimizer.betas"),
        ("step", ["--model.scheduler.gamma=0.9"], "scheduler.gamma 0.5 to 0.9"),
    ],
)
def test_any_other_change_is_rejected_and_the_run_stays_as_it_was(resumed, kind, options, named):
    code, (line,), run = resumed(kind, *options)
    assert code == 1
    assert re.match(f"error: .*: model.{named}.* --transfer.weights", line)
    summary = json.loads((run / "summary.json").read_text())
    assert (summary["state"], summary["epochs"]) == ("finished", 1)
    assert torch.load(run / "checkpoints/last.ckpt", weights_only=True)["epoch"] == 1


def test_more_patience_takes_effect(resumed):
    code, _, run = resumed("early", "--trainer.callbacks.patience=3", epochs=20)
    assert code == 0
    assert len(rows(run)) == 4
