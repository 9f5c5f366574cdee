"""A run stopped anywhere and resumed ends with the same bits as one that never was; which options may change then."""

import functools
import itertools
import re
import shutil
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from tests.conftest import SMALL
from tests.processes import finish, launch, start
from tests.stopping import config, early_stopping, fit, killed_at, resume, resume_diff, rows, run_differences, run_main

EARLY = early_stopping(patience=2, min_delta=0.3)
PLATEAU = (
    "lightning.pytorch.cli.ReduceLROnPlateau",
    {"monitor": "val/loss", "patience": 0, "factor": 0.5, "threshold": 0.5},
)
ONE_CYCLE = ("torch.optim.lr_scheduler.OneCycleLR", {"max_lr": 0.1, "total_steps": None})
CASES: dict[str, dict[str, Any]] = {
    "plain": config(),
    "accumulation": config(accumulate_grad_batches=5, every_n_steps=1),
    "validation amid an accumulation": config(accumulate_grad_batches=4, val_check_interval=5, every_n_steps=1),
    "validation and checkpoint at one step": config(val_check_interval=4, every_n_steps=2),
    "validation every second epoch": config(check_val_every_n_epoch=2, max_epochs=5),
    "validation across epochs": config(check_val_every_n_epoch=None, val_check_interval=17, max_epochs=4),
    "some batches": config(limit_train_batches=7),
    "max_steps": config(max_steps=40, max_epochs=-1, check_val_every_n_epoch=2),
    "max_steps without validation": config(max_steps=29, max_epochs=-1, limit_val_batches=0),
    "one-cycle": config(scheduler=ONE_CYCLE, interval="step"),
    "plateau": config(scheduler=PLATEAU, max_epochs=4),
    "early stopping": config(callbacks=(EARLY,), max_epochs=10, min_epochs=2, val_check_interval=3, every_n_steps=3),
}
STOPS = [
    ("on_train_batch_end", 7),
    ("on_train_batch_start", 13),
    ("on_train_batch_end", 17),
    ("on_validation_batch_end", 2),
    ("on_validation_end", 1),
    ("on_train_epoch_end", 2),
    ("on_train_epoch_start", 3),
    ("on_train_end", 1),
]
# Each case at two stops or three, each stop in three cases.
PAIRS = [(case, stop) for k, case in enumerate(CASES) for n, stop in enumerate(STOPS) if (k + n) % 4 == 0]


@pytest.fixture(scope="module")
def killed(tmp_path_factory):
    return functools.cache(
        lambda case: killed_at(("on_train_batch_end", 17), tmp_path_factory.mktemp("whole"), CASES[case])
    )


@pytest.mark.slow
@pytest.mark.parametrize(("case", "stop"), PAIRS)
def test_each_case_wherever_it_is_stopped(case, stop, killed, tmp_path):
    run = fit(tmp_path, CASES[case], stop)
    if (run / "checkpoints/last.ckpt").exists():
        assert resume_diff(killed(case)[0], run) == []


def test_a_run_killed_amid_an_accumulation_ends_with_the_same_bits(killed):
    assert resume_diff(*killed("accumulation")) == []


def test_stopped_again_and_again_with_half_written_files(killed):
    whole, run = killed("plain")
    for stop in (("on_train_epoch_start", 2), ("on_validation_end", 1), ("on_validation_batch_end", 2)):
        for part in ("checkpoints/.last.ckpt.part", "checkpoints/.best.ckpt.part", ".metrics.csv.part"):
            (run / part).write_bytes(b"half a ")
        assert resume(run, stop_at=stop) == -1
    assert resume_diff(whole, run) == []


@pytest.mark.parametrize(("seconds", "batches", "saved"), [(1, 15, [12]), (50, 7, []), (200, 7, [4])])
def test_each_epoch_and_all_10_minutes_are_saved(seconds, batches, saved, tmp_path, monkeypatch):
    clock = SimpleNamespace(monotonic=itertools.count(step=seconds).__next__)  # read once a step
    monkeypatch.setattr("src.engine.checkpoint.callback.time", clock)
    run = fit(tmp_path, config(every_n_steps=1_000), ("on_train_batch_end", batches))
    files = run.glob("checkpoints/last.ckpt")
    assert [torch.load(file, weights_only=True)["global_step"] for file in files] == saved


def test_the_best_checkpoint_begins_a_new_folder_with_the_rows_before_it_and_the_last_one_none(killed):
    whole, run = killed("early stopping")
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    assert resume(run / "checkpoints/best.ckpt") == 0
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before
    assert resume(run) == 0
    for resumed in (run, whole.with_name("version_1")):
        assert run_differences(whole, resumed) == []


def test_a_run_made_longer_is_the_longer_run_and_a_finished_one_stays(killed, tmp_path):
    run = fit(tmp_path, config(max_epochs=2))
    assert resume_diff(killed("plain")[0], run, "--trainer.max_epochs=3") == []
    for finished in (run, shutil.copytree(killed("early stopping")[0], tmp_path / "early")):
        before = (finished / "checkpoints/last.ckpt").read_bytes(), rows(finished)
        assert resume(finished, "--note=again") == 0
        assert ((finished / "checkpoints/last.ckpt").read_bytes(), rows(finished)) == before


STEP = ("torch.optim.lr_scheduler.StepLR", {"step_size": 1, "gamma": 0.5})
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
def test_any_other_change_is_rejected(resumed, kind, options, named):
    code, (line,), _ = resumed(kind, *options)
    assert code == 1
    assert re.match(f"error: .*: model.{named}.* --transfer.weights", line)


def test_more_patience_takes_effect(resumed):
    code, _, run = resumed("early", "--trainer.callbacks.patience=3", epochs=20)
    assert code == 0
    assert len(rows(run)) == 4


KILLS = ("last.ckpt:1", "last.ckpt:4", "metrics.csv:1", "best.ckpt:1", "on_train_epoch_end:1", "on_train_batch_end:333")


@pytest.mark.slow
def test_killed_again_and_again_with_kill_9(tmp_path):
    options = ("--checkpoint.every_n_steps=37", "--trainer.callbacks+=tests.stopping.Stop")
    begin = args = ["fit", "--config", str(SMALL), *options]
    run = tmp_path / "runs/xor/version_0"
    for kill in KILLS:
        done = finish(start(*args, cwd=tmp_path, STOP=f"SIGKILL:{kill}"))
        assert done.returncode == -9, done.stderr
        if (run / "checkpoints/last.ckpt").exists():
            args = ["fit", "--ckpt_path", "runs/xor/version_0"]
        else:
            shutil.rmtree(tmp_path / "runs")
    launch(*args, cwd=tmp_path)
    assert run_main([*begin, f"--trainer.default_root_dir={tmp_path / 'whole'}"]) == 0
    assert run_differences(tmp_path / "whole/xor/version_0", run) == []


@pytest.mark.slow
def test_eight_fits_started_at_once_get_eight_folders(tmp_path):
    args = ("fit", "--config", SMALL, "--trainer.max_epochs=1", "--data.passes=5")
    started = [start(*args, cwd=tmp_path) for _ in range(8)]
    assert [finish(process).returncode for process in started] == [0] * 8
    runs = sorted(tmp_path.glob("runs/xor/*/checkpoints/last.ckpt"))
    assert [file.parts[-3] for file in runs] == [f"version_{number}" for number in range(8)]
