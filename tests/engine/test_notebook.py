"""What a notebook does: processes by fork or spawn."""

import pytest

from tests.processes import XOR, launch, rows

SHORT = ("--data.batch_size=2", "--data.passes=5", "--trainer.max_epochs=2", "--trainer.accelerator=cpu")


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["ddp_notebook", "ddp_spawn"])
def test_processes_of_a_notebook_test_the_best_and_resume(strategy, tmp_path):
    two = ("--trainer.devices=2", f"--trainer.strategy={strategy}", "--test_after_fit=true", "--seed_everything=3")
    # A rate at which the second epoch is worse than the first.
    done = launch("fit", *XOR, *SHORT, *two, "--model.optimizer.lr=3", cwd=tmp_path)
    run = tmp_path / "runs/xor/version_0"
    found = rows(run)
    best = min(row["val/loss"] for row in found if "val/loss" in row)
    (tested,) = [row["test/loss"] for row in found if "test/loss" in row]
    assert tested == pytest.approx(best, rel=1e-4)  # the test has the rows of the validation
    assert "Traceback" not in done.stderr
    launch("fit", "--ckpt_path", run, "--trainer.max_epochs=3", cwd=tmp_path)
    assert [row["epoch"] for row in rows(run) if "train/loss" in row] == [1, 2, 3]
