"""A sweep in processes of its own: killed, stopped, with several workers, on several machines with one database."""

import csv
import os
import random
import shutil
import signal
import subprocess
import tempfile
from pathlib import Path

import pytest
import yaml

from src.tools.sweep import main, search
from tests.conftest import SMALL
from tests.processes import fail, finish, free_port, launch, start

pytestmark = pytest.mark.slow

FOLDER = Path("runs/xor/sweep_0")
# Checkpoints within each epoch, so that a trial can be resumed at many places.
SHORT = ("--config", SMALL, "--trainer.accelerator=cpu", "--trainer.max_epochs=3", "--data.passes=20")
SHORT = (*SHORT, "--checkpoint.every_n_steps=7", "--trainer.callbacks+=tests.stopping.Stop", "--sweep", "space.yaml")
SPACE = {"model.optimizer.lr": {"low": 0.05, "high": 2.0, "log": True}, "model.net.hidden": [4, 8]}
GUIDED = {
    "space": SPACE,
    "sampler": {"class_path": "optuna.samplers.TPESampler", "init_args": {"n_startup_trials": 2}},
    "pruner": {"class_path": "optuna.pruners.MedianPruner", "init_args": {"n_startup_trials": 2}},
    "trials": 6,
}
RANDOM = {"space": SPACE, "sampler": "optuna.samplers.RandomSampler", "trials": 4}


def rows(folder: Path) -> list[tuple[str, ...]]:
    """Read trials.csv, without the folder and the time."""
    with (folder / "trials.csv").open(newline="") as file:
        return [tuple(v for k, v in row.items() if k not in ("folder", "seconds")) for row in csv.DictReader(file)]


def write(folder: Path, content: dict) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "space.yaml").write_text(yaml.safe_dump(content))
    return folder


def commands(folder: Path) -> list[int]:
    """Count the commands that worked on each trial."""
    records = sorted((folder / FOLDER).glob("version_*/record.yaml"))
    return [len(yaml.safe_load(record.read_text())) for record in records]


def killed_once(mark: Path) -> list[str]:
    """Return the options that kill the process that comes to step 37 first."""
    return [f"--trainer.callbacks+={fail(0, 0)[0].partition('=')[2]}", *fail(0, 37, kill="true", once=mark)[1:]]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """The rows of both sweeps, run by one process that nobody stopped."""
    found = {}
    for name, content in (("guided", GUIDED), ("random", RANDOM)):
        folder = write(tmp_path_factory.mktemp(name), content)
        launch("sweep", *SHORT, cwd=folder)
        found[name] = rows(folder / FOLDER)
        assert len(found[name]) == content["trials"]
    assert {row[1] for row in found["guided"]} == {"complete", "pruned"}
    return found


def test_killed_at_random_it_ends_with_the_same_trials(undisturbed, tmp_path):
    write(tmp_path, GUIDED)
    dice, kills, words = random.Random(0), 0, SHORT
    while (done := finish(start("sweep", *words, cwd=tmp_path, STOP=f"SIGKILL::{dice.randint(10, 60)}"))).returncode:
        assert done.returncode == -signal.SIGKILL, done.stderr
        kills, words = kills + 1, ("--resume", FOLDER)
    assert kills > 1
    assert rows(tmp_path / FOLDER) == undisturbed["guided"]
    assert len(list((tmp_path / FOLDER).glob("version_*"))) == 6
    assert len(list((tmp_path / FOLDER).glob("test_*"))) == 1
    assert not (tmp_path / FOLDER).with_name("sweep_1").exists()


def test_one_of_two_workers_is_killed_and_its_trial_continues(undisturbed, tmp_path):
    write(tmp_path, RANDOM)
    done = launch("sweep", *SHORT, *killed_once(tmp_path / "killed"), "--workers", 2, cwd=tmp_path)
    deaths = done.stdout.count("worker died (exit code -9); another continues trial")
    assert deaths in (1, 2)  # both, where they come to that step at the same instant
    assert rows(tmp_path / FOLDER) == undisturbed["random"]
    # An interrupted trial was worked on twice, all others once: nobody shared a trial.
    assert sorted(commands(tmp_path)) == [1] * (4 - deaths) + [2] * deaths


def test_a_trial_that_kills_its_workers_is_recorded_as_failed(tmp_path):
    write(tmp_path, RANDOM | {"trials": 2})
    done = finish(start("sweep", *SHORT[:-3], *SHORT[-2:], *fail(0, 3, kill="true"), "--workers", 2, cwd=tmp_path))
    assert done.returncode == 1
    assert [row[1] for row in rows(tmp_path / FOLDER)] == ["failed", "failed"]
    assert {row[-1] for row in rows(tmp_path / FOLDER)} == {"its worker died 3 times (out of memory?)"}
    assert done.stderr.splitlines()[-1].startswith("error: no trial is complete")


@pytest.mark.parametrize(("workers", "name"), [(1, "SIGINT"), (2, "SIGKILL")])
def test_a_stopped_sweep_continues(workers, name, undisturbed, tmp_path):
    number = getattr(signal, name)  # Windows has no SIGKILL
    write(tmp_path, RANDOM)
    process = start("sweep", *SHORT, "--workers", workers, cwd=tmp_path)
    while not process.stdout.readline().startswith("trial "):
        assert process.poll() is None
    process.send_signal(number)
    done = finish(process)  # returns when no worker holds the other end of the pipe any more
    assert "Traceback" not in done.stderr
    if name != "SIGKILL":
        assert done.returncode == 128 + number, done.stderr
        assert (
            done.stderr.splitlines()[-1] == f"stopped by {name}; continue with: python -m src sweep --resume {FOLDER}"
        )
    launch("sweep", "--resume", FOLDER, "--workers", workers, cwd=tmp_path)
    assert rows(tmp_path / FOLDER) == undisturbed["random"]


@pytest.fixture(scope="module")
def postgres():
    """The address of a PostgreSQL server of its own."""
    pytest.importorskip("psycopg", reason="psycopg is not installed")
    found = [shutil.which("initdb"), *map(str, Path("/usr/lib/postgresql").glob("*/bin/initdb"))]
    binaries = next((Path(path).resolve().parent for path in found if path), None)
    if binaries is None:
        pytest.skip("PostgreSQL's server is not installed")
    user = "postgres" if os.geteuid() == 0 else None  # it does not run as root
    with tempfile.TemporaryDirectory(prefix="postgres-", dir="/tmp") as name:
        if user:
            shutil.chown(name, user)
        port = free_port()

        def run(*command):
            command = [binaries / command[0], "-D", f"{name}/data", *command[1:]]
            subprocess.run(command, cwd=name, user=user, check=True, stdout=subprocess.DEVNULL)

        run("initdb", "-A", "trust", "-U", "postgres")
        run("pg_ctl", "-l", f"{name}/log", "-w", "-o", f"-p {port} -k {name} -h 127.0.0.1", "start")
        yield f"postgresql://postgres@127.0.0.1:{port}/postgres"
        run("pg_ctl", "-m", "immediate", "stop")


def test_two_machines_share_a_study_and_one_continues_the_trial_of_the_other(postgres, tmp_path, monkeypatch, capfd):
    """Here two processes stand for two machines, the first of which is killed within its second trial."""
    write(tmp_path, RANDOM)
    killed = killed_once(tmp_path / "killed")
    done = finish(start("sweep", *SHORT, *killed, "--storage", postgres, cwd=tmp_path))
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert len(commands(tmp_path)) == 1
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(search, "HEARTBEAT_S", 5)  # the first one is dead after 15 seconds
    other = start("sweep", "--resume", FOLDER, cwd=tmp_path)
    main(["--resume", str(FOLDER)])
    assert finish(other).returncode == 0
    found = rows(tmp_path / FOLDER)
    assert len(found) in (4, 5)  # both may have asked at the same instant
    assert {row[1] for row in found} == {"complete"}
    with (tmp_path / FOLDER / "trials.csv").open(newline="") as file:
        (retry,) = [row["number"] for row in csv.DictReader(file) if row["folder"].endswith("version_0")]
    assert int(retry) > 0  # the retry has a number of its own, and the folder of trial 0
    assert not (tmp_path / FOLDER / f"version_{retry}").exists()
    assert commands(tmp_path) == [2] + [1] * (len(found) - 1)
    assert len(list((tmp_path / FOLDER).glob("test_*"))) == 1
