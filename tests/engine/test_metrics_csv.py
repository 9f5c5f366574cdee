"""metrics.csv: what each row holds, and the same bytes after a resume."""

from src.engine.run.report import add_row
from src.module import LitModule
from tests.stopping import config, fit, resume, resume_diff, rows

OWN = "lightning.pytorch.callbacks.ModelCheckpoint"


def test_a_row_is_appended_and_a_new_name_is_a_column_of_all_rows(tmp_path):
    file = tmp_path / "a.csv"
    add_row(file, {"step": 1})
    add_row(file, {"step": 2, "loss": 0.5})
    written = file.stat().st_ino
    add_row(file, {"loss": 0.1})
    assert file.stat().st_ino == written
    assert file.read_bytes() == b"step,loss\r\n1,\r\n2,0.5\r\n,0.1\r\n"


def test_only_epochs_with_a_validation_have_its_numbers(tmp_path):
    found = rows(fit(tmp_path, config(check_val_every_n_epoch=2)))
    assert [(row["epoch"], bool(row["val/loss"])) for row in found] == [("1", False), ("2", True), ("3", False)]


def test_validations_have_rows_and_a_resume_cuts_off_those_after_the_checkpoint(tmp_path):
    made = config(val_check_interval=5, max_epochs=2)
    whole, run = fit(tmp_path / "whole", made), fit(tmp_path, made, ("on_train_batch_end", 18))
    # The first row has fewer columns than the later ones.
    found = [(row["step"], bool(row["val/loss"]), bool(row["train/loss"])) for row in rows(whole)]
    assert found[:3] == [("5", True, False), ("10", True, False), ("12", False, True)]
    with (run / "metrics.csv").open("a", newline="") as file:
        file.write("3,36,half a ro")
    assert resume_diff(whole, run) == []
    assert (run / "metrics.csv").read_bytes() == (whole / "metrics.csv").read_bytes()


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


def test_checkpoints_of_lightning_resume_to_the_same_rows_or_are_refused(tmp_path, capfd):
    options = {"save_top_k": -1, "every_n_epochs": 1}
    train = {"filename": "train-{epoch}", "save_on_train_epoch_end": True}
    val = {"filename": "val-{epoch}", "save_on_train_epoch_end": False, "monitor": "val/loss"}
    within = {"filename": "own-{step}", "every_n_train_steps": 3, "every_n_epochs": None}
    own = tuple({"class_path": OWN, "init_args": options | each} for each in (train, val, within))
    run = fit(tmp_path, config(callbacks=own, val_check_interval=6, max_epochs=2))
    for number, name in enumerate(["train-epoch=0", "val-epoch=0-v1", "own-step=3"], 1):
        assert resume(run / f"checkpoints/{name}.ckpt") == 0
        again = run.with_name(f"version_{number}") / "metrics.csv"
        assert again.read_bytes() == (run / "metrics.csv").read_bytes(), name
    assert resume(run / "checkpoints/own-step=6.ckpt") == 1
    assert "right before a validation" in capfd.readouterr().err
