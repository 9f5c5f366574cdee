"""A checkpoint that cannot be used is answered with one clear error; what was saved before stays whole."""

import datetime
import errno
import shutil
from pathlib import Path

import pytest
import torch
from lightning.pytorch import Callback, Trainer

from src.module import LitModule
from tests.conftest import SMALL
from tests.stopping import config, fit, resume, run_differences, run_main


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A short run."""
    return fit(tmp_path_factory.mktemp("finished"), config(max_epochs=1))


@pytest.fixture
def run(finished, tmp_path, capfd) -> Path:
    """A copy of it."""
    folder = tmp_path / "runs/sums/version_0"
    shutil.copytree(finished, folder)
    capfd.readouterr()
    return folder


class Evil:
    """Makes a file when it is unpickled."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self):
        return (Path.touch, (self.file,))


def damage(kind: str, path: Path) -> str:
    """Spoil a checkpoint; returns a part of the error that is due."""
    if kind == "truncated":
        path.write_bytes(path.read_bytes()[:-2000])
        return f"only a part of one. Beside it: {path.with_name('best.ckpt')}."
    if kind == "text":
        path.write_text("Dear checkpoint,\n")
        return "is no checkpoint"
    if kind == "foreign":
        torch.save({"state_dict": {"weight": torch.zeros(2)}}, path)
        return "is no checkpoint of this template"
    torch.save({"config": Evil(path.parent / "evil")}, path, _use_new_zipfile_serialization=kind != "old malicious")
    return "is refused"


@pytest.mark.parametrize("kind", ["truncated", "text", "foreign", "malicious", "old malicious"])
def test_a_bad_checkpoint_gets_one_clear_error(kind, run, capfd):
    expected = damage(kind, run / "checkpoints/last.ckpt")
    assert run_main(["test" if kind == "text" else "fit", "--ckpt_path", str(run)]) == 1
    (line,) = capfd.readouterr().err.splitlines()
    assert expected in line
    if kind == "malicious":
        with pytest.raises(ValueError, match=expected):
            LitModule.load_from_checkpoint(run / "checkpoints/last.ckpt")
    assert not (run / "checkpoints/evil").exists()


class OtherNet(torch.nn.Sequential):
    """Another width, and its last layer in another place."""

    def __init__(self) -> None:
        super().__init__(torch.nn.Linear(4, 6), torch.nn.ReLU(), torch.nn.ReLU(), torch.nn.Linear(6, 1))


@pytest.mark.parametrize("verb", ["fit", "test"])
def test_a_net_that_does_not_fit_is_one_line(verb, run, capfd):
    assert run_main([verb, "--ckpt_path", str(run), f"--model.net={__name__}.OtherNet"]) == 1
    (line,) = [line for line in capfd.readouterr().err.splitlines() if line.startswith("error")]
    for part in ('Missing key(s) in state_dict: "net.3.weight"', "Unexpected", "net.0.weight", "[8, 4]", "[6, 4]"):
        assert part in line


class Careless(Callback):
    """Keeps an object where plain values belong, from the third epoch on."""

    def __init__(self) -> None:
        self.kept: object = None

    def on_train_epoch_start(self, trainer, module) -> None:
        self.kept = datetime.date.today() if trainer.current_epoch == 2 else None

    def state_dict(self) -> dict[str, object]:
        return {"kept": self.kept}


def test_a_checkpoint_that_could_not_be_loaded_again_is_not_written(tmp_path, capfd):
    run = fit(tmp_path, config(callbacks=({"class_path": f"{__name__}.Careless"},), every_n_steps=100))
    err = capfd.readouterr().err
    assert "it holds datetime.date" in err
    assert "Traceback" not in err
    assert torch.load(run / "checkpoints/last.ckpt", weights_only=True)["global_step"] == 12
    assert {path.name for path in (run / "checkpoints").iterdir()} == {"last.ckpt", "best.ckpt"}


def test_a_full_disk_leaves_the_checkpoint_of_before_and_says_so(tmp_path, monkeypatch, capfd):
    save, saved = Trainer.save_checkpoint, []

    def fill(trainer, path, *args, **kwargs):
        saved.append(Path(path).name)
        if saved.count(".last.ckpt.part") == 2:
            path.write_bytes(b"half a ")
            raise OSError(errno.ENOSPC, "No space left on device")
        save(trainer, path, *args, **kwargs)

    monkeypatch.setattr(Trainer, "save_checkpoint", fill)
    run = fit(tmp_path / "full", config())
    err = capfd.readouterr().err
    assert (
        f"Cannot write the checkpoint {run / 'checkpoints/last.ckpt'}: No space left on device. The one before" in err
    )
    assert "Traceback" not in err
    assert not list(run.glob("checkpoints/.*"))
    assert resume(run) == 0
    assert run_differences(fit(tmp_path / "whole", config()), run) == []


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--checkpoint.monitor=val/nope"], "checkpoint.monitor='val/nope' is not logged; there are val/acc, val/loss"),
        (["--checkpoint.monitor=val/acc", "--trainer.limit_val_batches=0"], "this run has no validation"),
    ],
)
def test_a_monitor_that_will_not_be_there_is_one_line_before_the_first_step(cli, monkeypatch, options, said):
    monkeypatch.setattr(LitModule, "training_step", lambda *_: pytest.fail("a step was taken"))
    done = cli("fit", "--config", SMALL, *options)
    assert done.code == 1
    assert said in done.err
    assert "Traceback" not in done.err
