"""metrics.csv: what each row holds."""

from tests.stopping import config, fit, rows


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
