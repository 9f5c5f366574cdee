"""Numbers of the optimizer that are given with a checkpoint act; any other change is rejected by name."""

import json
import re

import pytest
import torch
from lightning.pytorch import LightningModule

from tests.stopping import config, fit, resume, rows

STEP = ("torch.optim.lr_scheduler.StepLR", {"step_size": 1, "gamma": 0.5})
ONE_CYCLE = ("torch.optim.lr_scheduler.OneCycleLR", {"max_lr": 0.1, "total_steps": 60})
STEP_BY_OPTIONS = ["--model.scheduler=torch.optim.lr_scheduler.StepLR", "--model.scheduler.step_size=1"]
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


def test_a_group_keeps_its_own_rate(begun):
    made = config(max_epochs=2)
    made["model"]["groups"] = [{"names": ["*.bias"], "lr": 0.5}]
    code, said, run = begun(made, "--model.optimizer.lr=0.04")
    assert (code, said) == (0, ["changed  optimizer.lr 0.01 to 0.04"])
    groups = torch.load(run / "checkpoints/last.ckpt", weights_only=True)["optimizer_states"][0]["param_groups"]
    assert [group["lr"] for group in groups] == [0.04, 0.5]


class Plain(LightningModule):
    """Names its options as it likes."""

    def __init__(self, rate: float = 0.1, gamma: float | None = None) -> None:
        super().__init__()
        self.net, self.rate, self.gamma = torch.nn.Linear(4, 1), rate, gamma

    def training_step(self, batch, batch_idx):
        return (self.net(batch[0]) - batch[1]).square().mean()

    def configure_optimizers(self):
        optimizer = torch.optim.SGD(self.parameters(), lr=self.rate)
        if self.gamma is None:
            return optimizer
        return [optimizer], [torch.optim.lr_scheduler.ExponentialLR(optimizer, self.gamma)]


PLAIN = {"class_path": f"{__name__}.Plain"}


@pytest.mark.parametrize(
    ("model", "option", "changed", "value"),
    [
        ({}, "optimizer.lr=0.04", "lr 0.01 to 0.04", 0.04),
        ({}, "optimizer.weight_decay=0.1", "weight_decay 0.0 to 0.1", 0.1),
        ({}, "optimizer.betas=[0.5, 0.9]", "betas [0.9, 0.999] to [0.5, 0.9]", (0.5, 0.9)),
        ({"model": PLAIN}, "rate=0.2", "lr 0.1 to 0.2", 0.2),
        ({}, "compile=false", None, None),
    ],
)
def test_numbers_of_the_optimizer_act_where_no_schedule_sets_them(begun, model, option, changed, value):
    code, said, run = begun(config(max_epochs=2) | model, f"--model.{option}")
    assert (code, said) == (0, [f"changed  optimizer.{changed}"] if changed else [])
    assert changed is None or states(run)[0][changed.split()[0]] == value


@pytest.mark.parametrize(
    ("before", "options", "named"),
    [
        (None, ["--model.optimizer=torch.optim.SGD", "--model.optimizer.lr=0.1"], "optimizers .* Adam to SGD"),
        (None, ["--model.optimizer.amsgrad=true"], "optimizer.amsgrad .* False to True"),
        (STEP, ["--model.scheduler=null"], "schedulers .* StepLR to none"),
        (None, STEP_BY_OPTIONS, "schedulers .* none to StepLR"),
        (STEP, ["--model.scheduler.gamma=0.1"], "scheduler.gamma .* 0.5 to 0.1"),
        (STEP, ["--model.scheduler_interval=step"], "scheduler.interval .* epoch to step"),
        (STEP, ["--model.optimizer.lr=0.04"], "optimizer.lr .* 0.01 to 0.04"),
        (ONE_CYCLE, ["--model.scheduler.pct_start=0.6"], "scheduler.pct_start .* 0.6"),
        (ONE_CYCLE, ["--model.optimizer.betas=[0.5, 0.9]"], "optimizer.betas"),
        (0.9, ["--model.gamma=0.5"], "scheduler.gamma .* 0.9 to 0.5"),
        (None, ["--model.groups=[{names: ['*.bias'], weight_decay: 0.0}]"], "groups"),
    ],
)
def test_what_cannot_act_is_refused_and_the_run_left_as_it_was(begun, before, options, named):
    if before == 0.9:  # of any module
        made = config(max_epochs=2) | {"model": PLAIN | {"init_args": {"gamma": before}}}
    else:
        made = config(max_epochs=2, scheduler=before, interval="step" if before is ONE_CYCLE else "epoch")
    code, said, run = begun(made, *options)
    assert code == 1
    (line,) = said
    assert line.startswith("error: ")
    assert re.search(named, line), line
    assert "--transfer.weights" in line
    assert torch.load(run / "checkpoints/last.ckpt", weights_only=True)["epoch"] == 2
    summary = json.loads((run / "summary.json").read_text())
    assert (summary["state"], summary["epochs"]) == ("finished", 2)


def test_more_patience_acts(begun):
    made = config(callbacks=(EARLY,), max_epochs=20)
    code, said, run = begun(made, "--trainer.callbacks.patience=5", epochs=20)
    assert (code, said) == (0, ["changed  patience 2 to 5"])
    assert len(rows(run)) == 6


def test_another_seed_is_told(begun):
    code, said, _ = begun(config(max_epochs=2), "--seed_everything=7")
    assert (code, said) == (0, ["note: seed_everything=7 has no effect: the run keeps 0"])
