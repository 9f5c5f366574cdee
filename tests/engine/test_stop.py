"""A signal saves, says how to go on, and is the exit code; SLURM's requeueing resumes; NaN stops and is not saved."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from lightning.pytorch import Callback

from src.data.loader import TensorLoader
from tests.conftest import PROJECT, SMALL
from tests.processes import finish, processes, start
from tests.stopping import Sums, config, fit, resume, resume_diff, run_differences, run_main, write

ON_POSIX = pytest.mark.skipif(os.name == "nt", reason="Windows has no such signal")


@pytest.mark.parametrize(
    ("stop", "trainer"),
    [
        (("on_train_batch_end", 12), {"max_epochs": 2}),
        (("on_train_batch_start", 10), {"max_epochs": 1, "val_check_interval": 10}),
        (("on_validation_batch_end", 1), {"max_epochs": 1, "val_check_interval": 6, "accumulate_grad_batches": 5}),
    ],
)
def test_sigterm_saves_and_the_run_goes_on_to_the_same_bits(stop, trainer, tmp_path, capfd):
    whole = fit(tmp_path / "whole", config(**trainer))
    run = fit(tmp_path / "stopped", config(**trainer), stop, lambda: signal.raise_signal(signal.SIGTERM))
    assert f"go on with: python -m src fit --ckpt_path {run}" in capfd.readouterr().err
    assert resume_diff(whole, run) == []


class Late(Callback):
    def __init__(self, stage: str, name: str) -> None:
        self.stage, self.number = stage, getattr(signal, name)

    def on_validation_batch_start(self, trainer, *rest):
        if self.stage == ("sanity" if trainer.sanity_checking else trainer.state.fn.value):
            signal.raise_signal(self.number)

    on_test_batch_start = on_validation_batch_start


def late(folder: Path, stage: str, name: str) -> Path:
    callback = {"class_path": f"{__name__}.Late", "init_args": {"stage": stage, "name": name}}
    return write(folder, config(max_epochs=1, callbacks=(callback,)))


@pytest.mark.parametrize(("stage", "name"), [("sanity", "SIGINT"), ("test", "SIGTERM")])
def test_a_signal_outside_of_training_ends_with_its_code_and_a_line(stage, name, tmp_path, capfd):
    options = [f"--trainer.default_root_dir={tmp_path / 'runs'}", f"--test_after_fit={stage == 'test'}".lower()]
    before = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)]
    assert run_main(["fit", "--config", str(late(tmp_path, stage, name)), *options]) == 128 + getattr(signal, name)
    err = capfd.readouterr().err
    assert f"{name} outside of training: stopped; the run is {tmp_path / 'runs/sums/version_0'}\n" in err
    assert "Traceback" not in err
    assert [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)] == before


@pytest.mark.slow
def test_of_two_processes_both_end_and_one_speaks(tmp_path):
    done = finish(start("fit", "--config", late(tmp_path, "sanity", "SIGTERM"), *processes(2), cwd=tmp_path))
    assert done.returncode == 143, done.stderr
    assert done.stderr.count("SIGTERM outside") == 1
    assert "Traceback" not in done.stderr


@ON_POSIX
def test_ctrl_c_during_the_imports_is_one_line(tmp_path):
    (tmp_path / "lightning").mkdir()
    # In place of a slow library: it says that it is being imported, and is done when a signal comes.
    (tmp_path / "lightning/__init__.py").write_text("import signal\nprint('importing', flush=True)\nsignal.pause()\n")
    env = os.environ | {"PYTHONPATH": f"{tmp_path}{os.pathsep}{PROJECT}"}
    command = [sys.executable, "-m", "src", "fit", "--config", str(SMALL)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    process = subprocess.Popen(command, cwd=tmp_path, env=env, text=True, **pipes)
    assert process.stdout.readline() == "importing\n"
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (130, "SIGINT while starting; nothing was begun\n")


@ON_POSIX
@pytest.mark.parametrize(("name", "once_s"), [("SIGINT", -1), ("SIGHUP", 60)], ids=["later", "at once"])
def test_a_second_signal_stops_at_once_unless_it_is_the_first_sent_twice(name, once_s, tmp_path, capfd, monkeypatch):
    monkeypatch.setattr("src.engine.run.stop.ONCE_S", once_s)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)  # `nohup make test` ignores it
    number = getattr(signal, name)
    run = fit(tmp_path, config(), ("on_train_batch_start", 3), lambda: [signal.raise_signal(number) for _ in range(2)])
    err = capfd.readouterr().err
    assert "again to stop at once" in err
    assert (f"{number.name} at step 3; go on with: " in err) == (once_s == 60)
    assert (run / "checkpoints/last.ckpt").is_file() == (once_s == 60)


@ON_POSIX
def test_a_closed_terminal_that_nohup_ignores_is_ignored(tmp_path):
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        stop = ("on_train_batch_start", 3)
        run = fit(tmp_path, config(max_steps=4), stop, lambda: signal.raise_signal(signal.SIGHUP))
    finally:
        signal.signal(signal.SIGHUP, before)
    assert torch.load(run / "checkpoints/last.ckpt", weights_only=True)["global_step"] == 4


@pytest.fixture
def slurm(monkeypatch):
    job = {"JOB_ID": "4711", "NTASKS": "1", "JOB_NAME": "train", "PROCID": "0", "LOCALID": "0", "NODEID": "0"}
    for name, value in job.items():
        monkeypatch.setenv(f"SLURM_{name}", value)


@ON_POSIX
def test_a_requeued_slurm_job_goes_on_by_itself(tmp_path, monkeypatch, slurm):
    whole = fit(tmp_path / "whole", config(max_epochs=2))
    scontrol = tmp_path / "bin" / "scontrol"
    scontrol.parent.mkdir()
    # What SLURM does when a job is requeued: it ends the job.
    scontrol.write_text(f'#!/bin/sh\necho "$@" >> {tmp_path}/scontrol.log\nkill -TERM $PPID\n')
    scontrol.chmod(0o755)
    monkeypatch.setenv("PATH", f"{scontrol.parent}:{os.environ['PATH']}")
    stop = ("on_train_batch_start", 17)
    run = fit(tmp_path / "job", config(max_epochs=2), stop, lambda: signal.raise_signal(signal.SIGUSR1))
    assert (tmp_path / "scontrol.log").read_text() == "requeue 4711\n"
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    assert fit(tmp_path / "job", config(max_epochs=2)) == run
    assert run_differences(whole, run) == []
    assert [path.name for path in run.parent.iterdir()] == ["version_0"]


def test_a_requeued_job_finds_its_run_whatever_it_began_with(tmp_path, monkeypatch, slurm):
    drawn = config(max_epochs=2) | {"seed_everything": True}
    first = fit(tmp_path, drawn, ("on_train_batch_end", 14))
    command = ["fit", "--ckpt_path", str(first / "checkpoints/best.ckpt"), "--trainer.limit_val_batches=1"]
    assert run_main(command, ("on_train_batch_end", 9)) == -1
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    assert run_main(command) == 0
    assert fit(tmp_path, drawn) == first
    assert sorted(path.name for path in first.parent.iterdir()) == ["version_0", "version_1"]
    steps = [torch.load(run / "checkpoints/last.ckpt")["global_step"] for run in sorted(first.parent.iterdir())]
    assert steps == [24, 24]


class SpoiltSums(Sums):
    def __init__(self, value: float = float("nan")) -> None:
        super().__init__()
        self.data[0][40] = value


@pytest.mark.parametrize(("value", "loss", "accumulate"), [(float("nan"), "nan", 3), (1e38, "inf", 1)])
def test_a_nan_loss_stops_with_step_rate_and_last_good_checkpoint(value, loss, accumulate, tmp_path, capfd):
    loader = TensorLoader((torch.arange(48),), 4, shuffle=True, seed=0)
    batch = next(k for k, (rows,) in enumerate(loader) if 40 in rows)
    made = config(every_n_steps=1, accumulate_grad_batches=accumulate)
    run = fit(tmp_path, made | {"data": {"class_path": f"{__name__}.SpoiltSums", "init_args": {"value": value}}})
    at = f"step {batch // accumulate + 1} (epoch 0, lr 0.01)"
    err = capfd.readouterr().err
    assert f"error: The loss is {loss} at {at}. The last good checkpoint is {run}" in err
    assert "Traceback" not in err
    for file in run.glob("checkpoints/*.ckpt"):
        weights = torch.load(file, weights_only=True)["state_dict"]
        assert all(value.isfinite().all() for value in weights.values())
    if accumulate == 1:
        assert resume(run) == 1  # the same value again
        assert resume(run, "--data=tests.stopping.Sums", "--trainer.max_epochs=1") == 0


class RootOfZero(torch.nn.Linear):
    """Its output is finite, the gradient of sqrt(0) is not."""

    def __init__(self) -> None:
        super().__init__(4, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = super().forward(x)
        return y + (y - y).pow(2).sum(dim=1, keepdim=True).sqrt()


@pytest.mark.parametrize("enabled", [True, False])
def test_weights_spoilt_by_a_gradient_alone_are_not_saved_unless_an_option_says_so(enabled, tmp_path, capfd):
    broken = config(every_n_steps=1, max_epochs=1) | {"finite": {"enabled": enabled}}
    broken["model"]["net"] = {"class_path": f"{__name__}.RootOfZero"}
    run = fit(tmp_path, broken)
    assert ("NaN or infinite weights" in capfd.readouterr().err) == enabled
    assert (run / "checkpoints/last.ckpt").exists() != enabled
    if not enabled:
        assert json.loads((run / "summary.json").read_text())["metrics"]["val/loss"] == "nan"
