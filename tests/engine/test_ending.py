"""The end of a run: why it ended, and lines that can be pasted."""

import re
import shlex

import pytest
import torch
import yaml
from lightning.pytorch import Callback
from torch.utils.data import DataLoader, TensorDataset

from tests import stopping
from tests.conftest import SMALL
from tests.stopping import config, fit, resume

STOP = {"class_path": "lightning.pytorch.callbacks.EarlyStopping", "init_args": {"monitor": "val/loss", "patience": 1}}


class Enough(Callback):
    def on_train_epoch_end(self, trainer, module):
        trainer.should_stop = True


def own(name):
    return {"class_path": f"tests.engine.test_ending.{name}"}


@pytest.mark.parametrize(
    ("trainer", "why"),
    [
        ({"max_epochs": 2}, "max_epochs=2 reached"),
        ({"max_steps": 7, "max_epochs": -1}, "max_steps=7 reached"),
        ({"max_time": "00:00:00:01", "max_epochs": -1}, r"max_time reached after \d+ s"),
        ({"max_epochs": 9, "callbacks": (own("Enough"),)}, "trainer.should_stop was set by a callback or the module"),
        ({"limit_train_batches": 0}, "nothing to do: there is no training batch"),
    ],
)
def test_a_fit_says_why_it_ended(trainer, why, tmp_path, capfd):
    fit(tmp_path, config(**trainer))
    assert re.search(rf"^end   {why}$", capfd.readouterr().out, re.MULTILINE)


def test_early_stopping_names_metric_and_epoch(tmp_path, capfd):
    stop = {**STOP, "init_args": {**STOP["init_args"], "min_delta": 100.0}}
    run = fit(tmp_path, config(max_epochs=30, callbacks=(stop,)))
    assert "end   early stopping in epoch 2: Monitored metric val/loss did not improve" in capfd.readouterr().out
    assert resume(run) == 0
    assert "end   early stopping in epoch 2" in capfd.readouterr().out


def test_a_finished_run_has_nothing_left_to_do(tmp_path, capfd):
    run = fit(tmp_path, config(max_epochs=2))
    capfd.readouterr()
    assert resume(run) == 0
    assert "end   nothing left to do: max_epochs=2 reached" in capfd.readouterr().out


@pytest.mark.parametrize("name", ["two words", "it's", "a&b"])
def test_next_can_be_pasted(name, cli):
    short = ("--trainer.max_epochs=1", "--data.passes=5", "--test_after_fit=false")
    done = cli("fit", "--config", SMALL, *short, f"--experiment={name}")
    words = shlex.split(done.out.splitlines()[-1])
    assert words[:5] == ["next", "python", "-m", "src", "test"]
    assert cli(*words[4:]).code == 0


class NoTest(stopping.Sums):
    """Has validation data only."""

    test_dataloader = stopping.LightningDataModule.test_dataloader


class OnlyPredict(NoTest):
    def predict_dataloader(self):
        return self.val_dataloader()


@pytest.mark.parametrize(("data", "verb"), [("NoTest", "validate"), ("OnlyPredict", "predict")])
def test_next_is_a_verb_that_the_data_module_has(data, verb, tmp_path, capfd):
    fit(tmp_path, config(max_epochs=1) | {"data": {"class_path": f"tests.engine.test_ending.{data}"}})
    assert f"\nnext  python -m src {verb} --ckpt_path " in capfd.readouterr().out


class OfTables(OnlyPredict):
    def __init__(self, predict_csv=None, predict_limit=5):
        super().__init__()


@pytest.mark.parametrize(("options", "wanted"), [({}, " --data.predict_csv CSV"), ({"predict_csv": "a.csv"}, "")])
def test_next_names_the_options_of_predict_that_are_not_set(options, wanted, tmp_path, capfd):
    data = {"class_path": "tests.engine.test_ending.OfTables", "init_args": options}
    fit(tmp_path, config(max_epochs=1) | {"data": data})
    assert re.search(rf"\nnext  python -m src predict --ckpt_path \S+{wanted}\n", capfd.readouterr().out)


@pytest.mark.parametrize("name", ["sums", "two words"])
def test_a_crash_names_the_folder_and_the_way_back_and_leaves_its_traceback(name, tmp_path):
    (tmp_path / "experiment.yaml").write_text(yaml.safe_dump(config() | {"experiment": name}))
    stopping.Stop.at, stopping.Stop.action = ("on_train_batch_end", 17), stopping.crash
    options = ["--trainer.default_root_dir", str(tmp_path / "runs")]
    try:
        with pytest.raises(stopping.Stopped) as caught:
            stopping.main(["fit", "--config", str(tmp_path / "experiment.yaml"), *options])
    finally:
        stopping.Stop.at = None
    run = tmp_path / "runs" / name / "version_0"
    (note,) = [note for note in caught.value.__notes__ if note.startswith("run ")]
    words = shlex.split(note.partition("python -m src ")[2])
    assert words == ["fit", "--ckpt_path", str(run)]
    assert "Stopped" in (run / "traceback.txt").read_text()
    assert stopping.run_main(words) == 0


def test_a_mistake_before_the_first_step_is_one_line(tmp_path, capfd):
    fit(tmp_path, config(max_epochs=1) | {"checkpoint": {"monitor": "val/nothing"}})
    err = capfd.readouterr().err
    assert "go on with" not in err


class NoRows(stopping.Sums):
    def train_dataloader(self):
        return self._loader(torch.arange(0), shuffle=True)


class NoRowsOfTorch(stopping.Sums):
    def train_dataloader(self):
        return DataLoader(TensorDataset(torch.zeros(0, 4), torch.zeros(0, 1)), batch_size=4)


class NanInValidation(stopping.Sums):
    def val_dataloader(self):
        self.data[1][50] = float("nan")
        return super().val_dataloader()


@pytest.mark.parametrize(
    ("data", "told"),
    [
        ("NoRows", "There is no sample to load"),
        ("NoRowsOfTorch", "There is no sample to load"),
        ("NanInValidation", "warning: val/loss is nan, val/mae is nan in the validation at step 12."),
    ],
)
def test_odd_data_is_told_in_one_true_line(data, told, tmp_path, capfd):
    fit(tmp_path, config(max_epochs=2) | {"data": {"class_path": f"tests.engine.test_ending.{data}"}})
    done = capfd.readouterr()
    assert (done.out + done.err).count(told) == 1
    assert "Traceback" not in done.err
