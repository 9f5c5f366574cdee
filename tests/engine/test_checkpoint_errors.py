"""A checkpoint that cannot be used is answered with one clear error; what was saved before stays whole."""

import datetime
import os
import pickle
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from lightning.pytorch import Callback

from src.module import LitModule
from tests.conftest import SMALL
from tests.stopping import config, fit, resume, run_differences, run_main


@pytest.fixture
def run(tmp_path, capfd) -> Path:
    """A short run's folder."""
    folder = fit(tmp_path, config(max_epochs=1))
    capfd.readouterr()
    return folder


class Careless(Callback):
    """Keeps an object where plain values belong, from the third epoch on."""

    def __init__(self) -> None:
        self.kept: object = None

    def on_train_epoch_start(self, trainer, module) -> None:
        self.kept = datetime.date.today() if trainer.current_epoch == 2 else None

    def state_dict(self) -> dict[str, object]:
        return {"kept": self.kept}


class Evil:
    """Makes a file when it is unpickled."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self):
        return (Path.touch, (self.file,))


def damage(kind: str, path: Path) -> str:
    """Spoil a checkpoint; returns a part of the error that is due."""
    whole = path.read_bytes()
    if kind == "truncated":
        path.write_bytes(whole[: len(whole) // 2])
        return "only a part of one"
    if kind == "empty":
        path.write_bytes(b"")
        return "0 bytes"
    if kind == "text":
        path.write_text("Dear checkpoint,\n")
        return "is no checkpoint"
    if kind == "foreign":
        torch.save({"state_dict": {"weight": torch.zeros(2)}}, path)
        return "is no checkpoint of this template"
    if kind == "list":
        torch.save([1, 2], path)
        return "is no checkpoint of this template"
    if kind == "malicious":
        torch.save({"config": Evil(path.parent / "evil")}, path)
        return "is refused"
    path.write_bytes(pickle.dumps({"config": Evil(path.parent / "evil")}, protocol=2))
    return "is refused"


KINDS = ["truncated", "empty", "text", "foreign", "list", "malicious", "bare malicious pickle"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("verb", ["fit", "test"])
def test_a_bad_checkpoint_gets_one_clear_error(kind, verb, run, capfd):
    expected = damage(kind, run / "checkpoints/last.ckpt")
    code = run_main([verb, "--ckpt_path", str(run)])
    err = capfd.readouterr().err
    assert code == 1
    assert expected in err
    assert "Traceback" not in err
    assert len(err.splitlines()) == 1
    if "part of one" in expected or kind in ("empty", "text"):
        assert f"Beside it: {run / 'checkpoints/best.ckpt'}." in err
    assert not (run / "checkpoints/evil").exists()


def test_a_notebook_gets_the_same_error(run):
    expected = damage("malicious", run / "checkpoints/last.ckpt")
    with pytest.raises(ValueError, match=expected):
        LitModule.load_from_checkpoint(run / "checkpoints/last.ckpt")
    assert not (run / "checkpoints/evil").exists()


@pytest.mark.parametrize("verb", ["fit", "test"])
def test_a_net_that_does_not_fit_lists_what_is_missing_unexpected_and_of_another_shape(verb, run, capfd):
    changed = ["--model.net=tests.engine.test_checkpoint_errors.OtherNet"]
    assert run_main([verb, "--ckpt_path", str(run), *changed]) == 1
    err = capfd.readouterr().err
    assert "Traceback" not in err
    for part in ("missing net.3.weight", "unexpected net.2.weight", "net.0.weight has shape (8, 4)", "(6, 4)"):
        assert part in err


class OtherNet(torch.nn.Sequential):
    """Another width, and its last layer in another place."""

    def __init__(self) -> None:
        super().__init__(torch.nn.Linear(4, 6), torch.nn.ReLU(), torch.nn.ReLU(), torch.nn.Linear(6, 1))


def test_a_callback_that_went_since_does_no_harm(run):
    path = run / "checkpoints/last.ckpt"
    checkpoint = torch.load(path, weights_only=True)
    checkpoint["callbacks"]["Gone"] = {"count": 1}
    torch.save(checkpoint, path)
    assert resume(run, "--trainer.max_epochs=2") == 0
    assert run_main(["test", "--ckpt_path", str(run), "--trainer.default_root_dir", str(run.parents[2])]) == 0


is_root = hasattr(os, "geteuid") and os.geteuid() == 0
needs_root = pytest.mark.skipif(not is_root or sys.platform != "linux", reason="mounting a disk takes root")


@pytest.fixture
def disk(tmp_path):
    """A disk of 400 KB of its own, and a function that mounts it anew with other options."""
    folder = tmp_path / "disk"
    folder.mkdir()

    def mount(*options: str) -> None:
        done = subprocess.run(["mount", *options, str(folder)], capture_output=True, text=True, check=False)
        if done.returncode:
            pytest.skip(f"no disk can be mounted here: {done.stderr.strip()}")

    mount("-t", "tmpfs", "-o", "size=400k", "tmpfs")
    yield folder, mount
    subprocess.run(["umount", str(folder)], check=True)


@needs_root
def test_a_full_disk_leaves_the_checkpoint_of_before_and_says_so(disk, tmp_path, capfd):
    folder, _ = disk
    filler = folder / "filler"

    def fill() -> None:
        with filler.open("wb", buffering=0) as file:
            try:
                while True:
                    file.write(bytes(1024))
            except OSError:
                return

    run = fit(folder, config(), ("on_train_batch_start", 18), fill)
    err = capfd.readouterr().err
    assert f"Cannot write the checkpoint {run / 'checkpoints/last.ckpt'}" in err
    assert "The one before is whole" in err
    assert "Traceback" not in err
    assert not list(run.glob("checkpoints/.*"))
    filler.unlink()
    assert resume(run) == 0
    assert run_differences(fit(tmp_path / "whole", config()), run) == []


@needs_root
@pytest.mark.parametrize("room", ["size=4k", "size=8k", "nr_inodes=2", "nr_inodes=5"])
def test_a_disk_that_is_full_at_the_start_is_one_line_and_leaves_nothing(disk, capfd, room):
    folder, mount = disk
    subprocess.run(["umount", str(folder)], check=True)
    mount("-t", "tmpfs", "-o", room, "tmpfs")
    file = folder.with_name("sums.yaml")
    file.write_text(yaml.safe_dump(config()))
    code = run_main(["fit", "--config", str(file), f"--trainer.default_root_dir={folder}/runs"])
    assert code == 1
    (line,) = [line for line in capfd.readouterr().err.splitlines() if "Seed set" not in line]
    assert f"Cannot write into {folder}/runs/sums" in line
    assert "No space left on device" in line
    assert not [path for path in folder.rglob("*") if path != folder / "runs"]


def test_a_checkpoint_that_could_not_be_loaded_again_is_not_written(tmp_path, capfd):
    careless = {"class_path": "tests.engine.test_checkpoint_errors.Careless"}
    run = fit(tmp_path, config(callbacks=(careless,), every_n_steps=100))
    err = capfd.readouterr().err
    assert "checkpoint['callbacks']['Careless']['kept'] is more than tensors and plain values: datetime.date" in err
    assert "Traceback" not in err
    assert torch.load(run / "checkpoints/last.ckpt", weights_only=True)["global_step"] == 12
    assert {path.name for path in (run / "checkpoints").iterdir()} == {"last.ckpt", "best.ckpt"}


@needs_root
def test_a_read_only_folder_gets_one_clear_error(disk, capfd):
    folder, mount = disk
    run = fit(folder, config(max_epochs=1))
    capfd.readouterr()
    mount("-o", "remount,ro")
    assert resume(run, "--trainer.max_epochs=2") == 1
    err = capfd.readouterr().err
    assert len(err.splitlines()) == 1
    assert f"{run} is read-only" in err


def test_the_config_of_a_run_is_never_overwritten(run):
    before = (run / "config.yaml").read_bytes()
    assert resume(run, "--trainer.max_epochs=2") == 0
    assert (run / "config.yaml").read_bytes() == before
    checkpoint = torch.load(run / "checkpoints/last.ckpt", weights_only=True)
    assert checkpoint["config"]["trainer"]["max_epochs"] == 2
    assert yaml.safe_load(before)["trainer"]["max_epochs"] == 1


def test_a_monitor_that_is_not_logged_is_told_before_the_first_step(cli, monkeypatch):
    monkeypatch.setattr(LitModule, "training_step", lambda *_: pytest.fail("a step was taken"))
    done = cli("fit", "--config", SMALL, "--checkpoint.monitor=val/nope")
    assert done.code == 1
    assert "checkpoint.monitor='val/nope' is not logged; there are val/acc, val/loss" in done.err


def test_a_monitor_without_a_validation_is_told_before_the_first_step(cli):
    done = cli("fit", "--config", SMALL, "--checkpoint.monitor=val/acc", "--trainer.limit_val_batches=0")
    assert done.code != 0
    assert "checkpoint.monitor='val/acc' chooses the best checkpoint, but this run has no validation" in done.err
    assert "Traceback" not in done.err
