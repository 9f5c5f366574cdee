"""Tasks as people bring them: each trains, survives a kill, and is tested and predicted from its checkpoint alone."""

import importlib
import os
from pathlib import Path

import pytest
import torch
import yaml

from tests.conftest import run_process
from tests.processes import launch, processes
from tests.stopping import fit, resume, rows, run_differences, run_main

HERE = Path(__file__).parent
TASKS = sorted(file.stem for file in HERE.glob("*.yaml"))


def experiment(task: str) -> dict:
    """A task's YAML with what the tests of a stop need."""
    made = yaml.safe_load((HERE / f"{task}.yaml").read_text())
    trainer = made.setdefault("trainer", {})
    trainer["callbacks"] = [{"class_path": "tests.stopping.Stop"}, *trainer.get("callbacks", [])]
    trainer |= {"max_epochs": 3, "accelerator": "cpu", "enable_progress_bar": False}
    made |= {"seed_everything": 0, "experiment": "sums"}
    made["checkpoint"] = made.get("checkpoint", {}) | {"every_n_steps": 2}
    return made


@pytest.fixture
def data(request, tmp_path, monkeypatch) -> Path:
    """A folder with the task's data, in which commands run."""
    torch.manual_seed(0)
    monkeypatch.chdir(tmp_path)
    importlib.import_module(f"tests.tasks.{request.param}").write_data(tmp_path)
    return tmp_path


def remove_training_data(folder: Path) -> None:
    for file in folder.glob("train*"):
        file.unlink()


EACH = pytest.mark.parametrize(("task", "data"), [(task, task) for task in TASKS], indirect=["data"])


@EACH
def test_resume_and_use_the_checkpoint_alone(task, data, capfd):
    made = experiment(task)
    whole, run = fit(data / "whole", made), fit(data / "stopped", made, ("on_train_batch_end", 8))
    assert resume(run) == 0
    assert run_differences(whole, run) == []
    remove_training_data(data)
    for verb, folder in (("test", data / "a"), ("predict", data / "b")):
        code = run_main([verb, "--ckpt_path", str(run), f"--trainer.default_root_dir={folder}"])
        assert code == 0, capfd.readouterr().err
    (tested,) = rows(data / "a/sums/version_0")
    assert all(float(value) == float(value) for value in tested.values() if value)
    assert [name for name in tested if name.startswith("test")]
    assert len((data / "b/sums/version_0/predictions.csv").read_text().splitlines()) > 10


@pytest.mark.slow
@EACH
def test_kill_and_two_processes(task, data):
    made = experiment(task)
    whole = fit(data / "whole", made)
    (data / "experiment.yaml").write_text(yaml.safe_dump(made))
    environment = os.environ | {"STOP": "SIGKILL:on_train_batch_start:7"}
    killed = run_process("fit", "--config", "experiment.yaml", cwd=data, env=environment)
    assert killed.returncode == -9, killed.stderr
    resumed = run_process("fit", "--ckpt_path", "runs/sums/version_0", cwd=data)
    assert resumed.returncode == 0, resumed.stderr
    assert run_differences(whole, data / "runs/sums/version_0") == []
    remove_training_data(data)
    assert run_main(["test", "--ckpt_path", str(whole), f"--trainer.default_root_dir={data / '1'}"]) == 0
    launch("test", "--ckpt_path", str(whole), *processes(2), "--trainer.default_root_dir=2", cwd=data)
    one, two = (
        {name: float(value) for name, value in rows(data / f"{number}/sums/version_0")[-1].items() if value}
        for number in (1, 2)
    )
    assert two == pytest.approx(one, rel=1e-5)
