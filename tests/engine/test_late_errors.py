"""What Lightning rejects late is one line that names the option; errors of a user's code keep their traceback."""

import pytest
import yaml
from lightning.pytorch.utilities import CombinedLoader

from tests import stopping


@pytest.mark.parametrize(
    ("options", "names"),
    [
        (["--trainer.val_check_interval", "100"], "--trainer.val_check_interval"),
        (["--trainer.limit_val_batches", "0.001"], "--trainer.limit_val_batches"),
        (["--trainer.limit_train_batches", "0.001"], "--trainer.limit_train_batches"),
        (["--trainer.check_val_every_n_epoch", "null", "--trainer.val_check_interval", "0.5"], "val_check_interval"),
        (["--seed_everything", str(2**40)], "--seed_everything"),
        (["--seed_everything", "-1"], "--seed_everything"),
    ],
)
def test_a_trainer_option_that_is_rejected_late_is_one_line(options, names, cli, tmp_path):
    (tmp_path / "sums.yaml").write_text(yaml.safe_dump(stopping.config()))
    done = cli("fit", "--config", "sums.yaml", *options)
    assert done.code != 0
    assert names in done.err
    assert "Traceback" not in done.err
    assert done.err.strip().splitlines()[-1].startswith("error: ")


@pytest.mark.parametrize("name", ["LearningRateMonitor", "DeviceStatsMonitor"])
def test_a_monitor_without_a_tracker_is_told_which_it_needs(name, cli, tmp_path):
    callback = {"class_path": f"lightning.pytorch.callbacks.{name}"}
    (tmp_path / "sums.yaml").write_text(yaml.safe_dump(stopping.config(callbacks=(callback,))))
    done = cli("fit", "--config", "sums.yaml")
    assert done.code != 0
    assert f"{name} sends to a tracker" in done.err
    assert "--track.tensorboard true" in done.err
    assert ("column lr" in done.err) == (name == "LearningRateMonitor")


def test_a_monitor_with_a_logger_runs(cli, tmp_path):
    callback = {"class_path": "lightning.pytorch.callbacks.LearningRateMonitor"}
    logger = {"class_path": "lightning.pytorch.loggers.CSVLogger", "init_args": {"save_dir": "logs"}}
    (tmp_path / "sums.yaml").write_text(yaml.safe_dump(stopping.config(callbacks=(callback,), logger=logger)))
    assert cli("fit", "--config", "sums.yaml").code == 0


class Broken(stopping.Sums):
    """Has a bug in a hook that Lightning calls."""

    def val_dataloader(self):
        raise ValueError("mine")


class Misused(stopping.Sums):
    """Calls a method of Lightning with nonsense."""

    def setup(self, stage):
        CombinedLoader([], mode="nonsense")


@pytest.mark.parametrize("kind", ["Broken", "Misused"])
def test_an_error_of_a_users_code_keeps_its_traceback(kind, cli, tmp_path):
    made = stopping.config()
    made["data"] = {"class_path": f"tests.engine.test_late_errors.{kind}"}
    (tmp_path / "sums.yaml").write_text(yaml.safe_dump(made))
    with pytest.raises(ValueError, match=r"mine|nonsense"):
        cli("fit", "--config", "sums.yaml")
