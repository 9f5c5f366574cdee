"""No warning that the user can do nothing about."""

import warnings

from src.engine.lightning_fixes import Quiet
from tests.conftest import CONFIGS, run_process


def test_a_fit_says_nothing_but_its_seed_on_standard_error(tmp_path, mnist):
    few = ("--trainer.limit_train_batches=3", "--trainer.max_epochs=1")
    done = run_process("fit", "--config", CONFIGS / "mnist.yaml", *mnist.options, *few, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stderr.splitlines() == ["Seed set to 42"]


def test_other_warnings_stay():
    with warnings.catch_warnings(record=True) as shown:
        warnings.simplefilter("always")
        Quiet()
        warnings.warn("The number of training batches (3) is smaller than the logging interval", stacklevel=1)
        warnings.warn("The loss is not what you think", stacklevel=1)
    assert [str(warning.message) for warning in shown] == ["The loss is not what you think"]
