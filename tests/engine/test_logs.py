"""Whatever is logged, in whichever way: W processes print what one prints, and a resume ends with the same rows."""

import functools

import pytest
import yaml

from tests.processes import launch, processes, rows
from tests.stopping import fit, resume


def experiment(kind, batch_size=8, **trainer):
    return {
        "seed_everything": 0,
        "experiment": "sums",
        "model": {"class_path": f"tests.engine.logs_task.{kind}"},
        "data": {"class_path": "tests.engine.logs_task.Rows", "init_args": {"batch_size": batch_size}},
        "trainer": {
            "max_epochs": 2,
            "accelerator": "cpu",
            "enable_progress_bar": False,
            "callbacks": [{"class_path": "tests.stopping.Stop"}, {"class_path": "tests.engine.logs_task.Logs"}],
            **trainer,
        },
        "checkpoint": {"every_n_steps": 1, "monitor": "val/loss"},
        "test_after_fit": True,
    }


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["Plain", "Lit"])
def test_two_processes_log_what_one_logs(kind, tmp_path):
    """In training, validation and test; each way to log, with rows and batches that do not split evenly."""
    one = fit(tmp_path / "one", experiment(kind))
    file = tmp_path / "two.yaml"
    file.write_text(yaml.safe_dump(experiment(kind, batch_size=4)))
    launch("fit", "--config", file, *processes(2), f"--trainer.default_root_dir={tmp_path / 'two'}", cwd=tmp_path)
    (two,) = (tmp_path / "two").glob("*/version_0")
    assert len(rows(one)) == len(rows(two)) == 3
    for alone, together in zip(rows(one), rows(two), strict=True):
        assert together == pytest.approx(alone, rel=1e-5)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Fit once for each kind, without a stop."""
    return functools.cache(lambda kind: fit(tmp_path_factory.mktemp(kind), experiment(kind)))


STOPS = [("Plain", "on_train_batch_end", 2), ("Lit", "on_train_batch_start", 8), ("Plain", "on_train_epoch_end", 1)]


@pytest.mark.parametrize(("kind", "hook", "number"), STOPS)
def test_a_resume_within_an_epoch_ends_with_the_same_rows(kind, hook, number, whole, tmp_path):
    run = fit(tmp_path, experiment(kind), (hook, number))
    assert resume(run) == 0
    assert (run / "metrics.csv").read_bytes() == (whole(kind) / "metrics.csv").read_bytes()
