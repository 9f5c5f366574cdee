"""record.yaml tells how a run was made, enough to make it again."""

import importlib.metadata
import subprocess
import sys

import pytest
import torch
import yaml

from src.engine.run import record
from tests.conftest import CONFIGS, SMALL, digest
from tests.stopping import config, fit, resume

SHORT = ("--trainer.max_epochs=1", "--data.passes=5", "--trainer.callbacks=null")


def entries(run):
    return yaml.safe_load((run / "record.yaml").read_text())


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
    monkeypatch.setattr(record, "PROJECT", folder)
    return folder


def test_the_record_has_command_commit_versions_device_and_packages(cli, project, tmp_path, monkeypatch):
    arguments = ["fit", "--config", str(SMALL), *SHORT]
    monkeypatch.setattr(sys, "argv", ["somewhere/src/__main__.py", *arguments])
    assert cli(*arguments).code == 0
    run = tmp_path / "runs/xor/version_0"
    (entry,) = entries(run)
    assert entry["command"] == " ".join(["python -m src", *arguments])
    assert entry["folder"] == str(tmp_path)
    assert entry["versions"]["torch"] == torch.__version__.split("+")[0]
    assert entry["device"]["processes"] == 1
    assert entry["git"] == {"commit": git("rev-parse", "HEAD", cwd=project).strip(), "changes": None}
    listed = (run / entry["packages"]).read_text().splitlines()
    wanted = ("torch", "pillow", "pytest")
    assert {f"{name}=={importlib.metadata.version(name)}" for name in wanted} <= set(listed)
    assert len(listed) == len(set(listed))


def test_the_record_has_the_checksum_of_each_data_file(cli, mnist, tmp_path):
    short = ("--trainer.limit_train_batches=1", "--trainer.max_epochs=1")
    assert cli("fit", "--config", CONFIGS / "mnist.yaml", *mnist.options, *short).code == 0
    (entry,) = entries(tmp_path / "runs/mnist/version_0")
    assert entry["data"] == {file.name: digest(file) for file in (mnist.root / "MNIST/raw").glob("*-ubyte")}


def test_each_resume_adds_an_entry_with_the_options_that_changed(tmp_path):
    run = fit(tmp_path, config(max_epochs=1))
    assert resume(run) == 0
    assert resume(run, "--trainer.max_epochs=2", "--model.optimizer.lr=0.001") == 0
    changed = {"trainer.max_epochs": 2, "model.init_args.optimizer.init_args.lr": 0.001}
    assert [entry.get("changed") for entry in entries(run)] == [None, None, changed]


def test_a_run_that_a_notebook_started_is_run_again_from_its_config(cli, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["/somewhere/ipykernel_launcher.py", "-f", "kernel.json"])
    assert cli("fit", "--config", SMALL, *SHORT).code == 0
    (entry,) = entries(tmp_path / "runs/xor/version_0")
    assert entry["command"] == "python -m src fit --config runs/xor/version_0/config.yaml"


SETTINGS = {"diff.external": "false", "diff.noprefix": "true", "color.ui": "always", "diff.context": "0"}


@pytest.mark.parametrize("setting", SETTINGS)
def test_the_patch_has_changed_and_new_files_and_applies_whatever_git_is_set_to(setting, project, tmp_path):
    git("config", setting, SETTINGS[setting], cwd=project)
    (project / "src/old.py").write_bytes((project / "src/old.py").read_bytes().replace(b"= 9", b"= 10  # \xe9"))
    for name in ("mynets/new nét.py", "env/site-packages/theirs.py", "data.csv"):
        (project / name).parent.mkdir(parents=True, exist_ok=True)
        (project / name).write_text("new = 1\n")
    index = (project / ".git/index").read_bytes()
    assert record._git(tmp_path / "changes.patch")["changes"] == "changes.patch"
    git("apply", str(tmp_path / "changes.patch"), cwd=tmp_path / "fresh")
    for name in ("src/old.py", "mynets/new nét.py"):
        assert (tmp_path / "fresh" / name).read_bytes() == (project / name).read_bytes()
    assert {path.name for path in (tmp_path / "fresh").iterdir()} == {".git", "src", "mynets"}
    assert (project / ".git/index").read_bytes() == index


def test_thousands_of_new_files_cost_few_calls_of_git_and_large_ones_are_named(project, tmp_path, monkeypatch):
    for number in range(2_000):
        (project / f"src/new{number}.py").write_text(f"new = {number}\n")
    (project / "src/[a]*?.py").write_text("odd = 1\n")
    (project / "src/link.py").symlink_to("old.py")
    with (project / "src/weights.bin").open("wb") as file:
        file.truncate(10**10)
    calls, run = [], subprocess.run
    monkeypatch.setattr(subprocess, "run", lambda *args, **options: calls.append(args) or run(*args, **options))
    entry = record._git(tmp_path / "changes.patch")
    assert len(calls) < 10
    assert entry["too_large"] == ["src/weights.bin"]
    git("apply", str(tmp_path / "changes.patch"), cwd=tmp_path / "fresh")
    names = {path.name for path in (project / "src").iterdir()} - {"weights.bin"}
    assert {path.name for path in (tmp_path / "fresh/src").iterdir()} == names
    assert (tmp_path / "fresh/src/link.py").is_symlink()
