"""How much of an epoch a run takes: 1 is one batch, 1.0 all of them."""

import pytest

from tests.conftest import SMALL, run_process

SHORT = ("--trainer.max_epochs=1", "--data.passes=6", "--test_after_fit=false")


@pytest.mark.parametrize(
    ("limit", "steps"), [("1", "1 step,"), ("1.0", "6 steps"), ("0.5", "3 steps"), ("4", "4 steps")]
)
@pytest.mark.parametrize("place", ["option", "file"])
def test_a_limit_counts_batches_or_is_a_part(cli, tmp_path, limit, steps, place):
    (tmp_path / "limit.yaml").write_text(f"trainer: {{limit_train_batches: {limit}}}\n")
    given = ("--config", "limit.yaml") if place == "file" else (f"--trainer.limit_train_batches={limit}",)
    done = cli("fit", "--config", SMALL, *SHORT, *given)
    assert f"1 epoch, {steps}" in done.out


def test_one_batch_is_one_batch_in_a_process_of_its_own(tmp_path):
    """There Python has met the types of numbers in another order."""
    done = run_process("fit", "--config", SMALL, *SHORT, "--trainer.limit_train_batches=1", cwd=tmp_path)
    assert "1 epoch, 1 step," in done.stdout


def test_a_limit_survives_in_the_checkpoint(cli):
    assert cli("fit", "--config", SMALL, *SHORT, "--trainer.limit_train_batches=1").code == 0
    done = cli("fit", "--ckpt_path", "runs/xor/version_0", "--trainer.max_epochs=3")
    assert "3 epochs, 3 steps" in done.out


def test_a_part_of_the_predictions_is_written(cli):
    done = cli("predict", "--config", SMALL, "--data.batch_size=1", "--trainer.limit_predict_batches=2")
    assert done.code == 0, done.err
    assert "0 1" in done.out
    assert "1 0" not in done.out
