"""Tasks as people bring them: each trains, survives a stop, and is tested and predicted from its checkpoint alone."""

from pathlib import Path

import pytest
import yaml

from tests.processes import launch, processes
from tests.stopping import fit, killed_at, resume, rows, run_differences, run_main
from tests.tasks import tokens

HERE = Path(__file__).parent
TASKS = sorted(file.stem for file in HERE.glob("*.yaml"))


def experiment(task: str) -> dict:
    """A task's YAML with what the tests of a stop need."""
    made = yaml.safe_load((HERE / f"{task}.yaml").read_text())
    trainer = {"max_epochs": 2, "accelerator": "cpu", "enable_progress_bar": False}
    made["trainer"] = trainer | {"callbacks": [{"class_path": "tests.stopping.Stop"}]}
    made |= {"seed_everything": 0, "experiment": "sums"}
    made["checkpoint"] = made.get("checkpoint", {}) | {"every_n_steps": 3}
    return made


@pytest.fixture
def data(tmp_path, monkeypatch) -> Path:
    """A folder in which commands run, with the files of a task."""
    monkeypatch.chdir(tmp_path)
    tokens.write_data(tmp_path)
    return tmp_path


EACH = pytest.mark.parametrize("task", TASKS)


@EACH
def test_resume_and_use_the_checkpoint_alone(task, data, capfd):
    whole, run = killed_at(("on_train_batch_end", 8), data, experiment(task))
    assert resume(run) == 0
    assert run_differences(whole, run) == []
    (data / "train.pt").unlink()
    for verb in ("test", "predict"):
        code = run_main([verb, "--ckpt_path", str(run), f"--trainer.default_root_dir={data / verb}"])
        assert code == 0, capfd.readouterr().err
    (tested,) = rows(data / "test/sums/version_0")
    assert all(float(value) == float(value) for value in tested.values() if value)
    assert [name for name in tested if name.startswith("test")]
    assert len((data / "predict/sums/version_0/predictions.csv").read_text().splitlines()) > 10


@pytest.mark.slow
@EACH
def test_two_processes_test_as_one(task, data):
    run = fit(data / "fit", experiment(task))
    tested = []
    for number in (1, 2):
        launch("test", "--ckpt_path", run, *processes(number), f"--trainer.default_root_dir={number}", cwd=data)
        row = rows(data / f"{number}/sums/version_0")[-1]
        tested.append({name: float(value) for name, value in row.items() if value})
    assert tested[1] == pytest.approx(tested[0], rel=1e-5)
