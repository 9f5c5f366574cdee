"""A sweep in processes of its own: killed, stopped, with several workers, on several machines with one storage."""

import csv
import gc
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
import yaml
from lightning.pytorch import Callback

from tests.conftest import PROJECT, SMALL
from tests.processes import fail, finish, free_port, launch, start

pytestmark = pytest.mark.slow

FOLDER = Path("runs/xor/sweep_0")
LISTENER = f"{__name__}.KillAt"
# Checkpoints amid each epoch, so that a trial has many places to go on from.
SHORT = ("--config", SMALL, "--trainer.accelerator=cpu", "--trainer.max_epochs=3", "--data.passes=20")
SHORT = (*SHORT, "--checkpoint.every_n_steps=7", f"--trainer.callbacks+={LISTENER}")
SPACE = {"model.optimizer.lr": {"low": 0.05, "high": 2.0, "log": True}, "model.net.hidden": [4, 8]}
GUIDED = {
    "space": SPACE,
    "sampler": {"class_path": "optuna.samplers.TPESampler", "init_args": {"n_startup_trials": 2}},
    "pruner": {"class_path": "optuna.pruners.MedianPruner", "init_args": {"n_startup_trials": 2}},
    "trials": 6,
}
RANDOM = {"space": SPACE, "sampler": "optuna.samplers.RandomSampler", "trials": 6}


class KillAt(Callback):
    """Ends the process as `kill -9` does when it touches a file of the sweep for the KILL_AT-th time."""

    left = int(os.environ.get("KILL_AT", 0))
    listening = False

    def __init__(self) -> None:
        if KillAt.left and not KillAt.listening:
            sys.addaudithook(self._hear)
            KillAt.listening = True

    @staticmethod
    def _hear(event, args):
        if event in ("open", "os.rename", "os.mkdir") and "sweep_0" in str(args[0]):
            KillAt.left -= 1
            if KillAt.left == 0:
                os.kill(os.getpid(), signal.SIGKILL)


def rows(folder: Path) -> list[tuple[str, ...]]:
    """Those of trials.csv, without the folder and the time."""
    with (folder / "trials.csv").open(newline="") as file:
        return [tuple(v for k, v in row.items() if k not in ("folder", "seconds")) for row in csv.DictReader(file)]


def write(folder: Path, content: dict) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "space.yaml").write_text(yaml.safe_dump(content))
    return folder


def commands(folder: Path, number: int = 0) -> int:
    """How many commands worked on a trial."""
    return len(yaml.safe_load((folder / f"version_{number}/record.yaml").read_text()))


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """The rows of both sweeps, run by one worker that nobody stopped."""
    found = {}
    for name, content in (("guided", GUIDED), ("random", RANDOM)):
        folder = write(tmp_path_factory.mktemp(name), content)
        launch("sweep", *SHORT, "--sweep", "space.yaml", cwd=folder)
        found[name] = rows(folder / FOLDER)
        assert len(found[name]) == 6
    assert {row[1] for row in found["guided"]} == {"complete", "pruned"}
    return found


@pytest.mark.parametrize("seed", range(2))
def test_killed_at_random_it_goes_on_to_the_same_trials(seed, undisturbed, tmp_path):
    write(tmp_path, GUIDED)
    dice = random.Random(seed)
    args, kills = (*SHORT, "--sweep", "space.yaml"), 0
    while True:
        done = finish(start("sweep", *args, cwd=tmp_path, KILL_AT=str(dice.randint(40, 160))))
        args = ("--resume", FOLDER)
        if done.returncode == 0:
            break
        assert done.returncode == -signal.SIGKILL, done.stderr
        kills += 1
    assert kills > 1
    assert rows(tmp_path / FOLDER) == undisturbed["guided"]
    assert len(list((tmp_path / FOLDER).glob("version_*"))) == 6
    assert len(list((tmp_path / FOLDER).glob("test_*"))) == 1


def test_one_of_two_workers_is_killed_and_its_trial_goes_on(undisturbed, tmp_path):
    once = tmp_path / "killed"
    killer = [f"--trainer.callbacks+={fail(0, 0)[0].partition('=')[2]}", *fail(0, 37, kill="true", once=once)[1:]]
    write(tmp_path, RANDOM)
    done = launch("sweep", *SHORT, *killer, "--sweep", "space.yaml", "--workers", 2, cwd=tmp_path)
    assert once.exists()
    deaths = done.stdout.count("died (signal 9); its trial is taken over")
    assert deaths in (1, 2)  # both, where they come to that step at the same instant
    assert rows(tmp_path / FOLDER) == undisturbed["random"]
    # What was cut short was worked on twice, all else once: nobody shared a trial.
    commanded = sorted(commands(tmp_path / FOLDER, number) for number in range(6))
    assert commanded == [1] * (6 - deaths) + [2] * deaths


def test_a_trial_that_takes_its_process_along_is_recorded_as_failed(tmp_path):
    write(tmp_path, RANDOM | {"trials": 2})
    killer = fail(0, 3, kill="true")
    options = ("--sweep", "space.yaml", "--workers", 2, "--max_failures", 2)
    done = finish(start("sweep", *SHORT[:-1], *killer, *options, cwd=tmp_path))
    assert done.returncode == 1
    assert [row[1] for row in rows(tmp_path / FOLDER)] == ["failed", "failed"]
    assert {row[-1] for row in rows(tmp_path / FOLDER)} == {"its process died 2 times; was there memory enough?"}
    assert done.stderr.splitlines()[-1].startswith("error: 2 trials in a row failed")


@pytest.mark.parametrize(("workers", "number"), [(1, signal.SIGINT), (2, signal.SIGTERM)])
def test_a_signal_ends_it_in_good_order_and_it_goes_on(workers, number, undisturbed, tmp_path):
    write(tmp_path, RANDOM)
    process = start("sweep", *SHORT, "--sweep", "space.yaml", "--workers", workers, cwd=tmp_path)
    while not process.stdout.readline().startswith("trial "):
        assert process.poll() is None
    process.send_signal(number)
    done = finish(process)
    assert done.returncode == 128 + number, done.stderr
    assert done.stderr.splitlines()[-1] == f"{number.name}; go on with: python -m src sweep --resume {FOLDER}"
    assert "Traceback" not in done.stderr
    launch("sweep", "--resume", FOLDER, "--workers", workers, cwd=tmp_path)
    assert rows(tmp_path / FOLDER) == undisturbed["random"]


class Garbage:
    """Gets a signal when it is collected, where Python swallows what the handler raises."""

    def __init__(self):
        self.me = self

    def __del__(self):
        os.kill(os.getpid(), signal.SIGINT)


class Leaves(Callback):
    """Leaves some to be collected after the fit."""

    def teardown(self, trainer, module, stage):
        gc.disable()
        Garbage()


def test_a_signal_that_python_swallowed_ends_it_after_the_trial(tmp_path):
    write(tmp_path, RANDOM)
    leaves = f"--trainer.callbacks+={__name__}.Leaves"
    done = finish(start("sweep", *SHORT, leaves, "--sweep", "space.yaml", "--workers", 1, cwd=tmp_path))
    assert done.returncode == 128 + signal.SIGINT, done.stdout
    assert [line.split()[1] for line in done.stdout.splitlines() if line.startswith("trial ")] == ["0"]
    assert "go on with" in done.stderr
    assert "Exception ignored" in (tmp_path / FOLDER / "version_0/output.txt").read_text()


def test_workers_end_with_the_sweep_that_was_killed(tmp_path):
    write(tmp_path, RANDOM | {"trials": 1_000})
    process = start("sweep", *SHORT, "--sweep", "space.yaml", "--workers", 2, cwd=tmp_path)
    while not process.stdout.readline().startswith("trial "):
        assert process.poll() is None
    process.kill()
    process.communicate(timeout=120)  # returns when no worker holds the other end any more
    assert process.returncode == -signal.SIGKILL


@pytest.fixture(scope="module")
def postgres():
    """The address of a PostgreSQL server of its own."""
    pytest.importorskip("psycopg", reason="psycopg is not installed")
    found = [shutil.which("initdb"), *map(str, Path("/usr/lib/postgresql").glob("*/bin/initdb"))]
    binaries = next((Path(path).parent for path in found if path), None)
    if binaries is None:
        pytest.skip("PostgreSQL's server is not installed")
    user = "postgres" if os.geteuid() == 0 else None  # it does not run as root
    with tempfile.TemporaryDirectory(prefix="postgres-") as name:
        if user:
            shutil.chown(name, user)
        port = free_port()

        def run(*command):
            subprocess.run([binaries / command[0], *command[1:]], cwd=name, user=user, check=True, capture_output=True)

        run("initdb", "-D", f"{name}/data", "-A", "trust", "-U", "postgres")
        options = f"-p {port} -k {name} -h 127.0.0.1"
        subprocess.run(
            [binaries / "pg_ctl", "-D", f"{name}/data", "-l", f"{name}/log", "-w", "-o", options, "start"],
            cwd=name, user=user, check=True, stdout=subprocess.DEVNULL,
        )  # fmt: skip
        yield f"postgresql://postgres@127.0.0.1:{port}/postgres"
        run("pg_ctl", "-D", f"{name}/data", "-m", "immediate", "stop")


@pytest.mark.parametrize("storage", ["sqlite", "journal", "postgresql"])
def test_the_same_command_twice_at_once_shares_the_work(storage, undisturbed, tmp_path, request):
    write(tmp_path, RANDOM)
    where = request.getfixturevalue("postgres") if storage == "postgresql" else storage
    command = ("sweep", *SHORT, "--sweep", "space.yaml", "--storage", where, "--resume", FOLDER)
    both = [start(*command, cwd=tmp_path) for _ in range(2)]
    done = [finish(process) for process in both]
    assert [each.returncode for each in done] == [0, 0], done[0].stderr + done[1].stderr
    assert rows(tmp_path / FOLDER) == undisturbed["random"]
    assert [commands(tmp_path / FOLDER, number) for number in range(6)] == [1] * 6
    told = [line.split()[1] for each in done for line in each.stdout.splitlines() if line.startswith("trial ")]
    assert sorted(number for number in told if number.isdecimal()) == list("012345")
    assert len(list((tmp_path / FOLDER).glob("test_*"))) == 1


def test_an_address_with_a_password_is_refused(tmp_path):
    write(tmp_path, RANDOM)
    done = finish(start("sweep", *SHORT, "--sweep", "space.yaml", "--storage", "postgresql://a:b@c/d", cwd=tmp_path))
    assert done.returncode == 1
    assert done.stderr.startswith("error: --storage: leave out the password")
    assert len(done.stderr.splitlines()) == 1


def test_memory_does_not_grow_over_a_hundred_trials(tmp_path):
    write(tmp_path, RANDOM | {"pruner": "optuna.pruners.MedianPruner"})
    script = (
        "import sys; from src.tools.sweep import main\n"
        "def tell(): print('pages', open('/proc/self/statm').read().split()[1])\n"
        "main([*sys.argv[1:], '--trials', '20']); tell()\n"
        f"main(['--resume', '{FOLDER}', '--trials', '120']); tell()\n"
    )
    if not Path("/proc/self/statm").exists():
        pytest.skip("needs Linux's /proc")
    args = [*SHORT, "--trainer.max_epochs=1", "--data.passes=5", "--sweep", "space.yaml"]
    env = os.environ | {"PYTHONPATH": str(PROJECT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", script, *map(str, args)]
    done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=1_200, check=False)
    assert done.returncode == 0, done.stderr
    before, after = (int(line.split()[1]) * 4096 for line in done.stdout.splitlines() if line.startswith("pages "))
    assert after - before < 32 * 2**20
