"""A run over any loader that was stopped in any way ends with the same bits as one that never was."""

import functools
from pathlib import Path
from typing import Any

import pytest

from tests.engine.loader_tasks import FORMS
from tests.stopping import config, fit, resume, run_differences

AMID_AN_EPOCH = ("on_train_batch_end", 17)
BETWEEN_EPOCHS = ("on_train_batch_start", 13)  # the checkpoint was written as the second epoch began


def experiment(form: str, **data: Any) -> dict[str, Any]:
    made = config(dropout=0.5)
    made["model"] = {"class_path": "tests.engine.loader_tasks.Several", "init_args": made["model"]}
    return made | {"data": {"class_path": "tests.engine.loader_tasks.Task", "init_args": {"form": form} | data}}


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """The run of a form that nothing stops, made once."""
    return functools.cache(lambda form: fit(tmp_path_factory.mktemp("whole"), experiment(form)))


@pytest.mark.parametrize("stop", [AMID_AN_EPOCH, BETWEEN_EPOCHS], ids=["amid", "between"])
@pytest.mark.parametrize("form", FORMS)
def test_a_stopped_run_ends_with_the_same_bits(form, stop, undisturbed, tmp_path):
    run = fit(tmp_path / "stopped", experiment(form), stop)
    assert resume(run) == 0
    assert run_differences(undisturbed(form), run) == []
