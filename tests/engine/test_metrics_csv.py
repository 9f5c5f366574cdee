"""metrics.csv: what each row holds."""

import pickle
import shutil

import pytest
import torch

from src.engine.loggers.metrics_csv import MetricsCsv
from src.module import LitModule
from tests.stopping import config, fit, resume, rows, run_differences


def validated(run):
    return [row["epoch"] for row in rows(run) if row.get("val/loss")]


def test_a_row_has_the_numbers_of_a_validation_only_where_there_was_one(tmp_path):
    run = fit(tmp_path, config(check_val_every_n_epoch=2, max_epochs=4))
    assert [row["epoch"] for row in rows(run)] == ["1", "2", "3", "4"]
    assert validated(run) == ["2", "4"]


def test_a_validation_amid_an_epoch_has_a_row_of_its_own(tmp_path):
    run = fit(tmp_path, config(val_check_interval=5, max_epochs=1))
    assert [(row["step"], bool(row["val/loss"]), bool(row.get("train/loss"))) for row in rows(run)] == [
        ("5", True, False),
        ("10", True, False),
        ("12", False, True),
    ]


def test_a_checkpoint_does_not_grow_with_the_rows(tmp_path):
    held = []
    for epochs in (2, 20):
        last = fit(tmp_path / str(epochs), config(max_epochs=epochs)) / "checkpoints/last.ckpt"
        held.append(len(pickle.dumps(torch.load(last, weights_only=True)["callbacks"]["MetricsCsv"])))
    assert held[1] - held[0] < 50


def test_a_row_is_appended_and_the_others_are_not_written_again(tmp_path, monkeypatch):
    rewritten = []
    write = MetricsCsv._write
    monkeypatch.setattr(MetricsCsv, "_write", lambda self, rows: (rewritten.append(1), write(self, rows)))
    run = fit(tmp_path, config(max_epochs=10))
    assert len(rows(run)) == 10
    assert len(rewritten) == 1  # the first, with the names


@pytest.mark.parametrize(
    "left", ["3,36,half a ro", "3,36,0.01,1.0,1.0,1.0,1.0\r\n" * 3], ids=["half a row", "three rows"]
)
def test_what_came_after_the_checkpoint_is_cut_off(left, tmp_path):
    whole = fit(tmp_path / "whole", config())
    run = fit(tmp_path / "stopped", config(), ("on_train_batch_end", 30))
    with (run / "metrics.csv").open("a", newline="") as file:
        file.write(left)
    assert resume(run) == 0
    assert run_differences(whole, run) == []


def test_rows_of_an_epoch_whose_checkpoint_has_none_are_cut_off(tmp_path):
    whole = fit(tmp_path / "whole", config(val_check_interval=6))
    run = fit(tmp_path / "stopped", config(val_check_interval=6), ("on_train_batch_end", 8))
    assert resume(run) == 0
    assert run_differences(whole, run) == []


def test_rows_that_are_gone_are_told(tmp_path, capfd):
    run = fit(tmp_path, config(), ("on_train_batch_end", 30))
    copy = tmp_path / "copy.ckpt"
    shutil.copy(run / "checkpoints/last.ckpt", copy)
    (tmp_path.parent / "metrics.csv").write_text("epoch,step\n9,9\n9,9\n9,9\n")  # somebody's
    assert resume(copy) == 0
    assert "of the 2 rows that the checkpoint has 2 are lost" in capfd.readouterr().err
    assert [row["epoch"] for row in rows(run.parent / "version_1")] == ["3"]


class Lazy(LitModule):
    """Tests as it validates, under the same names."""

    def validation_step(self, batch, batch_idx):
        super().validation_step(batch, batch_idx)
        self.log("val/twice", 2.0)
        self.log("plain", 3.0)

    test_step = validation_step


def test_a_test_that_logs_as_the_validation_does_is_told_as_a_test(tmp_path, capfd):
    made = config()
    made["model"] = {"class_path": f"{Lazy.__module__}.Lazy", "init_args": made["model"]}
    made["test_after_fit"] = True
    run = fit(tmp_path, made)
    tested = rows(run)[-1]
    assert {"test/twice", "test/plain"} <= tested.keys()
    assert not tested["val/twice"]  # a column of the validation
    out, err = capfd.readouterr()
    assert "test/twice 2.0000" in next(line for line in out.splitlines() if line.startswith("test "))
    assert "note: the test logs " in err
    assert "val/twice as test/twice" in err


@pytest.mark.parametrize("at_epoch_end", [True, False])
def test_a_checkpoint_of_lightnings_own_has_the_whole_epoch_in_its_rows(at_epoch_end, tmp_path):
    options = {
        "filename": "own-{epoch}",
        "monitor": "val/loss",
        "save_top_k": -1,
        "save_on_train_epoch_end": at_epoch_end,
    }
    own = {"class_path": "lightning.pytorch.callbacks.ModelCheckpoint", "init_args": options}
    run = fit(tmp_path, config(callbacks=(own,)))
    files = sorted(run.rglob("own-*.ckpt"))
    assert len(files) == 3
    for number, file in enumerate(files, 1):
        assert resume(file) == 0
        again = run.with_name(f"version_{number}") / "metrics.csv"
        assert again.read_bytes() == (run / "metrics.csv").read_bytes()
