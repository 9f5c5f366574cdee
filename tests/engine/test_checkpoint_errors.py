"""A checkpoint that cannot be used is answered with one clear error; what was saved before stays whole."""

import datetime
import shutil
from pathlib import Path

import pytest
import torch
from lightning.pytorch import Callback, Trainer

from src.engine.checkpoint.files import read_checkpoint
from tests.stopping import config, fit, run_main


class Evil:
    """Makes a file when it is unpickled."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self):
        return (Path.touch, (self.file,))


BAD = {
    "truncated": "only a part of one. Beside it: ",
    "text": "is no checkpoint",
    "foreign": "is no checkpoint of this template",
    "malicious": "is refused",
    "old malicious": "is refused",
}


@pytest.mark.parametrize("kind", BAD)
def test_a_bad_checkpoint_gets_one_clear_error(kind, tmp_path, capfd):
    last, evil = tmp_path / "last.ckpt", tmp_path / "evil"
    held = {"config": Evil(evil)} if "malicious" in kind else {"state_dict": {"weight": torch.zeros(2)}}
    torch.save(held, last, _use_new_zipfile_serialization=kind != "old malicious")
    if kind == "truncated":
        shutil.copy(last, tmp_path / "best.ckpt")
        last.write_bytes(last.read_bytes()[:-20])
    elif kind == "text":
        last.write_text("Dear checkpoint,\n")
    assert run_main(["test", "--ckpt_path", str(tmp_path)]) == 1
    (line,) = capfd.readouterr().err.splitlines()
    assert BAD[kind] in line
    assert not evil.exists()


def test_a_net_that_does_not_fit_is_one_line(tmp_path, capfd):
    run = fit(tmp_path, config(max_epochs=1))
    other = ("--model.net=torch.nn.Linear", "--model.net.in_features=4", "--model.net.out_features=1")
    assert run_main(["fit", "--ckpt_path", str(run), *other]) == 1
    (line,) = [line for line in capfd.readouterr().err.splitlines() if line.startswith("error")]
    assert 'Missing key(s) in state_dict: "net.weight"' in line


class Careless(Callback):
    """Keeps an object where plain values belong, from the third epoch on."""

    kept: object = None

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


@pytest.mark.parametrize(
    ("name", "step"), [("checkpoints/.last.ckpt.part", 5), (".metrics.csv.part", 10), (".summary.json.part", 10)]
)
def test_a_full_disk_is_told_by_what_ran_into_it_and_leaves_what_was_saved(name, step, tmp_path, monkeypatch, capfd):
    part, save = tmp_path / "runs/sums/version_0" / name, Trainer.save_checkpoint

    def fill(trainer, path):  # Lightning's would replace the link
        return path.write_bytes(b"half a ") if path.is_symlink() else save(trainer, path)

    monkeypatch.setattr(Trainer, "save_checkpoint", fill)
    run = fit(tmp_path, config(), ("on_train_batch_end", 7), lambda: part.symlink_to("/dev/full"))
    err = capfd.readouterr().err
    assert ": No space left on device. Make room there, then resume the run." in err
    assert "Traceback" not in err
    assert not list(run.rglob(".*"))
    assert read_checkpoint(run / "checkpoints/last.ckpt")["global_step"] == step
