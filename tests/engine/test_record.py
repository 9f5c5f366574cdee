"""record.yaml tells how a run was made, enough to make it again."""

import importlib.metadata
import subprocess
import sys

import pytest
import torch
import yaml

from src.engine.run import record
from src.engine.run.record import PROJECT
from tests.conftest import CONFIGS, SMALL, digest
from tests.stopping import config, fit, resume

SHORT = ("--trainer.max_epochs=1", "--data.passes=5", "--trainer.callbacks=null")


def test_the_record_has_command_git_versions_device_and_time(cli, tmp_path, monkeypatch):
    arguments = ["fit", "--config", str(SMALL), *SHORT]
    monkeypatch.setattr(sys, "argv", ["somewhere/src/__main__.py", *arguments])
    assert cli(*arguments).code == 0
    folder = tmp_path / "runs/xor/version_0"
    (entry,) = yaml.safe_load((folder / "record.yaml").read_text())
    assert entry["command"] == " ".join(["python -m src", *arguments])
    assert entry["folder"] == str(tmp_path)
    assert entry["versions"]["torch"] == torch.__version__.split("+")[0]
    assert entry["device"]["processes"] == 1
    head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=PROJECT, capture_output=True, text=True, check=False)
    if head.returncode == 0:
        assert entry["git"]["commit"] == head.stdout.strip()
        diff = subprocess.run(
            ["git", "diff", "HEAD", "--binary"], cwd=PROJECT, capture_output=True, text=True, check=True
        )
        kept = folder / entry["git"]["changes"] if entry["git"]["changes"] else None
        assert (kept.read_text() if kept else "").startswith(diff.stdout)  # then come new files
    else:
        assert entry["git"] is None


def test_the_record_has_the_checksum_of_each_data_file(cli, mnist, tmp_path):
    done = cli(
        "fit",
        "--config",
        CONFIGS / "mnist.yaml",
        *mnist.options,
        "--trainer.limit_train_batches=1",
        "--trainer.max_epochs=1",
    )
    assert done.code == 0, done.err
    (entry,) = yaml.safe_load((tmp_path / "runs/mnist/version_0/record.yaml").read_text())
    assert entry["data"] == {file.name: digest(file) for file in (mnist.root / "MNIST/raw").glob("*-ubyte")}


def test_a_resume_adds_an_entry(cli, tmp_path):
    assert cli("fit", "--config", SMALL, *SHORT).code == 0
    assert cli("fit", "--ckpt_path", "runs/xor/version_0", "--trainer.max_epochs=2").code == 0
    entries = yaml.safe_load((tmp_path / "runs/xor/version_0/record.yaml").read_text())
    assert len(entries) == 2


def test_each_resume_adds_an_entry_with_the_options_that_changed(tmp_path):
    run = fit(tmp_path, config(max_epochs=1))
    assert resume(run) == 0
    assert resume(run, "--trainer.max_epochs=2", "--model.optimizer.lr=0.001") == 0
    entries = yaml.safe_load((run / "record.yaml").read_text())
    assert len(entries) == 3
    assert "changed" not in entries[0]
    assert "changed" not in entries[1]
    assert entries[2]["changed"] == {"trainer.max_epochs": 2, "model.init_args.optimizer.init_args.lr": 0.001}


def test_the_patch_has_changed_and_new_files(cli, tmp_path, monkeypatch):
    project = tmp_path / "project"
    git = ["git", "-C", str(project), "-c", "user.name=a", "-c", "user.email=a@b"]
    (project / "src").mkdir(parents=True)
    (project / "src/old.py").write_text("x = 1\n")
    for command in (["init", "-q"], ["add", "."], ["commit", "-q", "-m", "first"]):
        subprocess.run([*git, *command], check=True)
    (project / "src/old.py").write_text("x = 2\n")
    (project / "src/new.py").write_text("y = 3\n")
    monkeypatch.setattr(record, "PROJECT", project)
    assert cli("fit", "--config", SMALL, "--trainer.max_epochs=1", "--data.passes=5").code == 0
    patch = (tmp_path / "runs/xor/version_0/changes-0.patch").absolute()
    subprocess.run([*git, "stash", "-q", "--include-untracked"], check=True)
    subprocess.run([*git, "apply", str(patch)], check=True)
    assert [(project / f"src/{name}.py").read_text() for name in ("old", "new")] == ["x = 2\n", "y = 3\n"]


def test_bytes_of_any_encoding_do_no_harm(cli, tmp_path, monkeypatch):
    project = tmp_path / "project"
    git = ["git", "-C", str(project), "-c", "user.name=a", "-c", "user.email=a@b", "-c", "core.autocrlf=false"]
    (project / "src").mkdir(parents=True)
    (project / "src/old.py").write_bytes(b"x = 1\r\n")
    for command in (["init", "-q"], ["add", "."], ["commit", "-q", "-m", "first"]):
        subprocess.run([*git, *command], check=True)
    changed, new = b"x = 2  # \xe9\r\n", "src/n\u00e9.py"
    (project / "src/old.py").write_bytes(changed)
    (project / new).write_text("y = 3\n")
    monkeypatch.setattr(record, "PROJECT", project)
    done = cli("fit", "--config", SMALL, "--trainer.max_epochs=1", "--data.passes=5")
    assert done.code == 0, done.err
    patch = (tmp_path / "runs/xor/version_0/changes-0.patch").absolute()
    subprocess.run([*git, "stash", "-q", "--include-untracked"], check=True)
    subprocess.run([*git, "apply", str(patch)], check=True)
    assert (project / "src/old.py").read_bytes() == changed
    assert (project / new).read_text() == "y = 3\n"


def test_a_run_that_a_notebook_started_is_run_again_from_its_config(cli, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["/somewhere/ipykernel_launcher.py", "-f", "kernel.json"])
    assert cli("fit", "--config", SMALL, *SHORT).code == 0
    (entry,) = yaml.safe_load((tmp_path / "runs/xor/version_0/record.yaml").read_text())
    assert entry["command"] == "python -m src fit --config runs/xor/version_0/config.yaml"


SETTINGS = {"diff.external": "false", "diff.noprefix": "true", "color.ui": "always", "diff.context": "0"}


@pytest.mark.parametrize("setting", SETTINGS)
def test_the_patch_applies_whatever_git_is_set_to(setting, tmp_path, monkeypatch):
    def git(*args, cwd):
        subprocess.run(["git", "-c", "user.name=a", "-c", "user.email=a@b", *args], cwd=cwd, check=True)

    project = tmp_path / "project"
    (project / "src").mkdir(parents=True)
    (project / "src/a.py").write_text("".join(f"line = {n}\n" for n in range(20)))
    git("init", "-q", cwd=project)
    git("add", ".", cwd=project)
    git("commit", "-q", "-m", "first", cwd=project)
    git("clone", "-q", ".", "../fresh", cwd=project)
    git("config", setting, SETTINGS[setting], cwd=project)
    (project / "src/a.py").write_text("".join(f"line = {n + (n == 9)}\n" for n in range(20)))
    (project / "mynets").mkdir()
    (project / "mynets/new net.py").write_text("new = 1\n")
    (project / "env/site-packages").mkdir(parents=True)
    (project / "env/site-packages/theirs.py").write_text("theirs = 1\n")
    (project / "data.csv").write_text("1,2\n")
    monkeypatch.setattr(record, "PROJECT", project)
    assert record._git(tmp_path / "changes.patch")["changes"] == "changes.patch"
    git("apply", str(tmp_path / "changes.patch"), cwd=tmp_path / "fresh")
    files = ("src/a.py", "mynets/new net.py")
    assert [(tmp_path / "fresh" / name).read_text() for name in files] == [
        (project / name).read_text() for name in files
    ]
    assert not (tmp_path / "fresh/env").exists()
    assert not (tmp_path / "fresh/data.csv").exists()


def test_the_record_has_all_packages_once(cli, tmp_path):
    assert cli("fit", "--config", SMALL, *SHORT).code == 0
    assert cli("fit", "--ckpt_path", "runs/xor/version_0", "--trainer.max_epochs=2").code == 0
    folder = tmp_path / "runs/xor/version_0"
    entries = yaml.safe_load((folder / "record.yaml").read_text())
    assert [entry["packages"] for entry in entries] == ["packages-0.txt"] * 2
    listed = (folder / "packages-0.txt").read_text().splitlines()
    wanted = ("torch", "pillow", "pytest")
    assert {f"{name}=={importlib.metadata.version(name)}" for name in wanted} <= set(listed)
    assert len(listed) == len(set(listed))


def test_thousands_of_new_files_cost_one_call_of_git_and_large_ones_are_named(tmp_path, monkeypatch):
    def git(*args, cwd):
        subprocess.run(["git", "-c", "user.name=a", "-c", "user.email=a@b", *args], cwd=cwd, check=True)

    project = tmp_path / "project"
    (project / "src").mkdir(parents=True)
    (project / "src/old.py").write_text("old = 1\n")
    git("init", "-q", cwd=project)
    git("add", ".", cwd=project)
    git("commit", "-q", "-m", "first", cwd=project)
    git("clone", "-q", ".", "../fresh", cwd=project)
    for number in range(2_000):
        (project / f"src/new{number}.py").write_text(f"new = {number}\n")
    (project / "src/[a]*?.py").write_text("odd = 1\n")
    (project / "src/link.py").symlink_to("old.py")
    with (project / "src/weights.bin").open("wb") as file:
        file.truncate(10**10)
    before = {path: path.stat().st_mtime_ns for path in (project / ".git").rglob("*")}
    calls = []
    run = subprocess.run
    monkeypatch.setattr(subprocess, "run", lambda *args, **options: calls.append(args) or run(*args, **options))
    monkeypatch.setattr(record, "PROJECT", project)
    entry = record._git(tmp_path / "changes.patch")
    assert len(calls) < 10
    assert entry["too_large"] == ["src/weights.bin"]
    assert before == {path: path.stat().st_mtime_ns for path in (project / ".git").rglob("*")}
    git("apply", str(tmp_path / "changes.patch"), cwd=tmp_path / "fresh")
    names = {path.name for path in (project / "src").iterdir()} - {"weights.bin"}
    assert {path.name for path in (tmp_path / "fresh/src").iterdir()} == names
    assert (tmp_path / "fresh/src/new1999.py").read_text() == "new = 1999\n"
    assert (tmp_path / "fresh/src/link.py").is_symlink()
