"""metrics.csv: what each row holds, and the same bytes after a resume."""

import shutil

import pytest

from src.engine.loggers.metrics_csv import MetricsCsv
from src.module import LitModule
from tests.stopping import config, fit, resume, rows, run_differences

OWN = "lightning.pytorch.callbacks.ModelCheckpoint"


def test_only_epochs_with_a_validation_have_its_numbers(tmp_path, monkeypatch):
    rewritten = []
    write = MetricsCsv._write
    monkeypatch.setattr(MetricsCsv, "_write", lambda self, rows: (rewritten.append(1), write(self, rows)))
    run = fit(tmp_path, config(check_val_every_n_epoch=2, max_epochs=4))
    assert [(row["epoch"], bool(row["val/loss"])) for row in rows(run)] == [
        ("1", False),
        ("2", True),
        ("3", False),
        ("4", True),
    ]
    assert len(rewritten) == 2  # once for each new name; other rows are appended


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run with a validation within each epoch: its first row has fewer columns than the later ones."""
    run = fit(tmp_path_factory.mktemp("whole"), config(val_check_interval=5))
    assert [(row["step"], bool(row["val/loss"]), bool(row["train/loss"])) for row in rows(run)][:3] == [
        ("5", True, False),
        ("10", True, False),
        ("12", False, True),
    ]
    return run


@pytest.mark.parametrize(("step", "left"), [(8, ""), (30, "3,36,half a ro")])
def test_a_resume_cuts_off_the_rows_after_the_checkpoint(whole, tmp_path, step, left):
    run = fit(tmp_path, config(val_check_interval=5), ("on_train_batch_end", step))
    with (run / "metrics.csv").open("a", newline="") as file:
        file.write(left)
    assert resume(run) == 0
    assert run_differences(whole, run) == []
    assert (run / "metrics.csv").read_bytes() == (whole / "metrics.csv").read_bytes()


def test_missing_rows_are_reported(whole, tmp_path, capfd):
    copy = tmp_path / "copy.ckpt"
    shutil.copy(whole / "checkpoints/last.ckpt", copy)
    assert resume(copy, "--trainer.max_epochs=4", f"--trainer.default_root_dir={tmp_path}") == 0
    assert "of the 9 rows that the checkpoint has 9 are lost" in capfd.readouterr().err
    assert {row["epoch"] for row in rows(tmp_path / "sums/version_0")} == {"3", "4"}


class Lazy(LitModule):
    """Tests as it validates, under the same names."""

    def validation_step(self, batch, batch_idx):
        super().validation_step(batch, batch_idx)
        self.log("val/twice", 2.0)
        self.log("plain", 3.0)

    test_step = validation_step


def test_numbers_of_a_test_get_the_name_of_a_test(tmp_path, capfd):
    made = config(max_epochs=1) | {"test_after_fit": True}
    made["model"] = {"class_path": f"{Lazy.__module__}.Lazy", "init_args": made["model"]}
    tested = rows(fit(tmp_path, made))[-1]
    assert {"test/twice", "test/plain"} <= tested.keys()
    assert not tested["val/twice"]
    assert "test/twice 2.0000" in next(line for line in capfd.readouterr().out.splitlines() if line.startswith("test "))


def test_checkpoints_of_lightning_resume_to_the_same_rows(tmp_path):
    options = {"save_top_k": -1, "every_n_epochs": 1}
    train = {"filename": "train-{epoch}", "save_on_train_epoch_end": True}
    val = {"filename": "val-{epoch}", "save_on_train_epoch_end": False, "monitor": "val/loss"}
    own = tuple({"class_path": OWN, "init_args": options | each} for each in (train, val))
    run = fit(tmp_path, config(callbacks=own, max_epochs=2))
    for number, name in enumerate(["train-epoch=0", "val-epoch=0", "val-epoch=1"], 1):
        assert resume(run / f"checkpoints/{name}.ckpt") == 0
        again = run.with_name(f"version_{number}") / "metrics.csv"
        assert again.read_bytes() == (run / "metrics.csv").read_bytes(), name


def test_a_checkpoint_right_before_a_validation_is_refused(tmp_path, capfd):
    options = {"filename": "own-{step}", "every_n_train_steps": 3, "save_top_k": -1}
    own = {"class_path": OWN, "init_args": options}
    run = fit(tmp_path, config(callbacks=(own,), val_check_interval=6, max_epochs=1))
    assert resume(run / "checkpoints/own-step=6.ckpt") == 1
    assert "right before a validation" in capfd.readouterr().err
    assert resume(run / "checkpoints/own-step=3.ckpt") == 0
    assert (run.with_name("version_2") / "metrics.csv").read_bytes() == (run / "metrics.csv").read_bytes()
