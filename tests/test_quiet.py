"""No warning that the user can do nothing about."""

from tests.conftest import CONFIGS, run_process


def test_a_fit_says_nothing_but_its_seed_on_standard_error(tmp_path, mnist):
    few = ("--trainer.limit_train_batches=3", "--trainer.max_epochs=1")
    done = run_process("fit", "--config", CONFIGS / "mnist.yaml", *mnist.options, *few, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stderr.splitlines() == ["Seed set to 42"]


def test_a_warning_that_says_something_stays(tmp_path):
    options = ("--trainer.max_epochs=1", "--data.passes=5", "--trainer.callbacks=null", "--trainer.limit_val_batches=2")
    done = run_process("fit", "--config", CONFIGS / "xor.yaml", *options, "--trainer.detect_anomaly=true", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "anomaly" in done.stderr.lower()
