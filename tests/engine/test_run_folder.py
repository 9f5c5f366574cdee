"""A run has a folder of its own; record.yaml says how it was made, summary.json what it is and how far it came."""

import importlib.metadata
import json
import os
import shlex
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import yaml
from lightning.pytorch import Callback

from src.cli import main
from src.engine.errors import UserError
from src.engine.run import folder
from src.engine.run.report import how_it_ended
from src.engine.run.run import Run, RunCallback
from tests.conftest import SMALL
from tests.stopping import config, fit, resume, rows

SHORT = ("--trainer.max_epochs=2", "--data.passes=5")


def test_each_run_has_its_own_folder_whatever_the_logger(cli, tmp_path):
    (tmp_path / "runs/xor/version_0").mkdir(parents=True)
    (tmp_path / "runs/xor/version_0/notes.txt").write_text("mine")
    logger = ("--trainer.logger=CSVLogger", "--trainer.logger.save_dir=elsewhere", "--seed_everything=0")
    for number, options in enumerate([(), logger], start=1):
        assert cli("fit", "--config", SMALL, *SHORT, *options).code == 0
        run = tmp_path / f"runs/xor/version_{number}"
        assert {path.name for path in (run / "checkpoints").iterdir()} == {"last.ckpt", "best.ckpt"}
    assert [path.name for path in (tmp_path / "runs/xor/version_0").iterdir()] == ["notes.txt"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["elsewhere", "runs"]
    assert list(tmp_path.glob("elsewhere/**/metrics.csv"))
    config = yaml.safe_load((run / "config.yaml").read_text())
    assert config["seed_everything"] == 0
    assert config["trainer"]["gradient_clip_val"] is None


def test_a_tilde_means_the_home_folder_in_files_and_options(cli, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    first = tmp_path / "home/runs/xor/version_0"
    assert cli("fit", "--config", SMALL, *SHORT, "--trainer.default_root_dir=~/runs").code == 0
    before = {path: path.read_bytes() for path in first.rglob("*") if path.is_file()}
    (tmp_path / "local.yaml").write_text("trainer: {default_root_dir: ~/runs}")
    weights = "--transfer.weights=~/runs/xor/version_0/checkpoints/best.ckpt"
    assert cli("fit", "--config", SMALL, *SHORT, "--seed_everything=7", weights).code == 0
    assert {path: path.read_bytes() for path in first.rglob("*") if path.is_file()} == before
    assert (first.parent / "version_1/checkpoints/last.ckpt").is_file()
    assert not (tmp_path / "~").exists()


def test_a_program_gives_paths_numbers_and_callbacks_and_trains_in_a_thread_and_a_folder_of_its_own(tmp_path):
    seen, mine = RunCallback(), tmp_path / "mine"
    words = ("fit", "--config", SMALL, "--data.passes", 5, "--trainer.default_root_dir", tmp_path)
    thread = threading.Thread(target=main, args=(words, [seen], mine))
    thread.start()
    thread.join()
    assert seen.run.folder == mine
    assert (mine / "checkpoints/last.ckpt").is_file()
    assert "RunCallback" not in (mine / "config.yaml").read_text()


ODD = {
    "a file": lambda root: root.write_text("mine"),
    "a link that leads nowhere": lambda root: root.symlink_to("nowhere/at/all"),
    "a file of the experiment's name": lambda root: (root.mkdir(), (root / "xor").write_text("mine")),
}


@pytest.mark.parametrize("make", ODD.values(), ids=ODD.keys())
def test_a_place_that_is_no_folder_is_named_and_stays(tmp_path, make):
    make(tmp_path / "runs")
    before = sorted(tmp_path.rglob("*"))
    root = folder.runs_folder(tmp_path / "runs", "xor")
    with pytest.raises(UserError, match=f"Cannot write into {root}: .*--trainer.default_root_dir"):
        folder.begin(Run(), root)
    assert sorted(tmp_path.rglob("*")) == before


JOBS = {
    "SLURM, first start": ({"SLURM_JOB_ID": "7"}, False, False),
    "SLURM, requeued": ({"SLURM_JOB_ID": "7", "SLURM_RESTART_COUNT": "1"}, False, True),
    "torchrun, restarted": ({"TORCHELASTIC_RUN_ID": "x", "TORCHELASTIC_RESTART_COUNT": "1"}, False, True),
    "torchrun, a machine that joins": ({"TORCHELASTIC_RUN_ID": "x"}, False, True),
    "torchrun, after the end": ({"TORCHELASTIC_RUN_ID": "x"}, True, False),
}


@pytest.mark.parametrize(("variables", "ended", "found"), JOBS.values(), ids=JOBS.keys())
def test_a_job_that_starts_again_finds_the_run_of_the_same_config(variables, ended, found, tmp_path, monkeypatch):
    for name in [name for name in os.environ if name.startswith(("SLURM_", "TORCHELASTIC_"))]:
        monkeypatch.delenv(name)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    mine, other = Run(config={"lr": 1}), Run(config={"lr": 2})
    for run in (mine, other):
        folder.begin(run, tmp_path)
        run.last.parent.mkdir()
        run.last.touch()
        (run.folder / "summary.json").write_text(json.dumps({"state": "finished" if ended else "running"}))
    assert folder.find_interrupted(tmp_path, {"lr": 1}) == (mine.last if found else None)
    assert folder.find_interrupted(tmp_path, {"lr": 3}) is None


def entries(run: Path) -> list[dict]:
    return yaml.safe_load((run / "record.yaml").read_text())


def summary(run: Path) -> dict:
    return json.loads((run / "summary.json").read_text())


def git(*args, cwd):
    command = ["git", "-c", "user.name=a", "-c", "user.email=a@b", "-c", "core.autocrlf=false", *args]
    return subprocess.run(command, cwd=cwd, check=True, capture_output=True, text=True).stdout


@pytest.fixture
def project(tmp_path, monkeypatch):
    """Return a repository with one commit, and a clone of it beside it: `fresh`."""
    folder = tmp_path / "project"
    (folder / "src").mkdir(parents=True)
    (folder / "src/old.py").write_bytes(b"".join(b"line = %d\r\n" % number for number in range(20)))
    for command in (["init", "-q"], ["add", "."], ["commit", "-q", "-m", "first"], ["clone", "-q", ".", "../fresh"]):
        git(*command, cwd=folder)
    monkeypatch.setattr("src.engine.run.folder.PROJECT", folder)
    return folder


def test_a_run_and_each_verb_on_it_are_recorded(cli, project, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "orig_argv", ["python", "-m", "src", "fit", "--note=a b"])
    assert cli("fit", "--config", SMALL, *SHORT, "--note=lr: 0.1, [wide]").code == 0
    run = tmp_path / "runs/xor/version_0"
    (entry,), said = entries(run), summary(run)
    assert (entry["command"], entry["folder"]) == ("python -m src fit '--note=a b'", str(tmp_path))
    assert (entry["device"], entry["processes"]) == (said["device"], said["processes"]) == ("cpu", 1)
    assert entry["git"] == {"commit": git("rev-parse", "HEAD", cwd=project).strip(), "changes": None}
    assert {"commit": said["commit"], "changes": said["changes"]} == entry["git"]
    listed = (run / entry["packages"]).read_text().splitlines()
    assert {f"{name}=={importlib.metadata.version(name)}" for name in ("torch", "pillow", "pytest")} <= set(listed)
    assert (said["verb"], said["state"], said["reason"]) == ("fit", "finished", "max_epochs=2 reached")
    assert (said["epochs"], said["steps"], said["parameters"], said["note"]) == (2, 10, 17, "lr: 0.1, [wide]")
    *_, trained, tested = rows(run)
    last = {name: float(value) for row in (trained, tested) for name, value in row.items() if "/" in name and value}
    assert said["metrics"] == pytest.approx(last, rel=1e-6)
    assert {"val/loss", "val/acc", "train/loss", "test/loss", "test/acc"} == said["metrics"].keys()
    assert (said["monitor"], said["best"]) == ("val/loss", min(float(row["val/loss"]) for row in rows(run)[:2]))
    for number, (verb, stages) in enumerate([("validate", {"val"}), ("predict", set())], start=1):
        assert cli(verb, "--ckpt_path", run).code == 0
        said = summary(tmp_path / f"runs/xor/version_{number}")
        assert (said["verb"], said["state"], said["note"]) == (verb, "finished", "lr: 0.1, [wide]")
        assert said["source"].endswith("runs/xor/version_0/checkpoints/last.ckpt")
        assert {name.split("/")[0] for name in said["metrics"]} == stages
        assert "epochs" not in said
    # A test of earlier weights says nothing of the resumed fit.
    assert cli("fit", "--ckpt_path", run, "--trainer.max_epochs=3", "--test_after_fit=false").code == 0
    assert (summary(run)["epochs"], summary(run)["note"]) == (3, "lr: 0.1, [wide]")
    assert {name.split("/")[0] for name in summary(run)["metrics"]} == {"train", "val"}


def test_a_resume_adds_an_entry_and_continues_the_summary_and_a_refused_one_changes_nothing(tmp_path, capfd):
    scheduler = ("torch.optim.lr_scheduler.StepLR", {"step_size": 1})
    made = config(max_epochs=2, scheduler=scheduler, val_check_interval=4)
    run = fit(tmp_path, made, ("on_train_batch_end", 11), lambda: signal.raise_signal(signal.SIGTERM))
    stopped = summary(run)
    assert (stopped["state"], stopped["reason"]) == ("stopped", "SIGTERM")
    assert (stopped["epochs"], stopped["steps"]) == (0, 11)
    assert stopped["metrics"]["val/loss"] >= stopped["best"] > 0
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    assert resume(run, "--model.optimizer.lr=0.5") == 1
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before
    assert resume(run) == 0
    assert resume(run, "--trainer.max_epochs=3") == 0
    said = summary(run)
    assert (said["state"], said["reason"]) == ("finished", "max_epochs=3 reached")
    assert (said["epochs"], said["steps"]) == (3, 36)
    assert said["started"] == stopped["started"]
    assert said["updated"] > stopped["updated"]
    assert said["seconds"] > stopped["seconds"] > 0
    first, second, third = entries(run)
    assert "config" not in first | second
    assert third["config"]["trainer"]["max_epochs"] == 3
    assert {path.name for path in run.glob("packages-*")} == {f"packages-{number}.txt" for number in range(3)}


SETTINGS = {"diff.external": "false", "diff.noprefix": "true", "color.ui": "always", "diff.context": "0"}


def test_the_patch_has_changed_and_new_files_and_applies_whatever_git_is_set_to(project, tmp_path):
    (project / "src/old.py").write_bytes((project / "src/old.py").read_bytes().replace(b"= 9", b"= 10  # \xe9"))
    new = ["mynets/new nét.py", "configs/mine.yaml", "src/[a]*?.py", *(f"src/new{number}.py" for number in range(200))]
    for name in (*new, "env/site-packages/theirs.py", "data.csv", "src/weights.bin"):
        (project / name).parent.mkdir(parents=True, exist_ok=True)
        (project / name).write_text("new = 1\n")
    (project / "src/link.py").symlink_to("old.py")
    index = (project / ".git/index").read_bytes()
    patches = set()
    for setting, value in SETTINGS.items():
        git("config", setting, value, cwd=project)
        assert folder._git(tmp_path / "changes.patch")["changes"] == "changes.patch"
        git("config", "--unset", setting, cwd=project)
        patches.add((tmp_path / "changes.patch").read_bytes())
    assert len(patches) == 1
    git("apply", str(tmp_path / "changes.patch"), cwd=tmp_path / "fresh")
    for name in ("src/old.py", *new):
        assert (tmp_path / "fresh" / name).read_bytes() == (project / name).read_bytes()
    assert (tmp_path / "fresh/src/link.py").is_symlink()
    assert {path.name for path in (tmp_path / "fresh").iterdir()} == {".git", "src", "mynets", "configs"}
    assert not (tmp_path / "fresh/src/weights.bin").exists()
    assert (project / ".git/index").read_bytes() == index


def test_an_interrupted_run_was_stopped_and_any_other_failed():
    assert how_it_ended(KeyboardInterrupt()) == ("stopped", "SIGINT")
    assert how_it_ended(SystemExit("no disk")) == ("failed", "SystemExit: no disk")
    assert how_it_ended(UserError("lr=0 is too small. Set it.")) == ("failed", "lr=0 is too small. Set it.")
    assert how_it_ended(MemoryError()) == ("failed", "MemoryError")


class Odd(Callback):
    def on_test_start(self, trainer, *rest):
        raise RuntimeError(f"in the test\nof a run {summary(Path(trainer.default_root_dir))['state']}")


def test_a_fit_is_not_done_before_its_test_is_and_a_crash_names_the_way_back(cli, tmp_path):
    with pytest.raises(RuntimeError) as caught:
        cli("fit", "--config", SMALL, *SHORT, f"--trainer.callbacks={__name__}.Odd", "--experiment=two words")
    (note,) = [note for note in caught.value.__notes__ if note.startswith("run ")]
    words = shlex.split(note.partition("python -m src ")[2])
    assert words == ["fit", "--ckpt_path", "runs/two words/version_0"]
    run = tmp_path / words[2]
    said = summary(run)
    assert (said["state"], said["epochs"]) == ("failed", 2)
    assert said["reason"] == "RuntimeError: in the test of a run running"
    assert said["metrics"]["val/loss"] == pytest.approx(float(rows(run)[-1]["val/loss"]))
    assert cli(*words, "--trainer.callbacks=null").code == 0
