"""Trackers beside metrics.csv: without any that is installed, and each for real without its server."""

import importlib.util
import io
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from lightning.pytorch.loggers.logger import DummyLogger
from PIL import Image

from src.engine.loggers import trackers
from src.engine.run.run import Run, RunCallback
from tests import stopping
from tests.conftest import PROJECT
from tests.processes import processes

OPTIONS = {
    "tensorboard": "--track.tensorboard=true",
    "wandb": "--track.wandb=offline",
    "mlflow": "--track.mlflow=sqlite:///mlflow.db",
}
HERE = [name for name in OPTIONS if importlib.util.find_spec(name)]
ALL = [OPTIONS[name] for name in HERE]
RED = (255, 0, 0)
LR = "model/init_args/optimizer/init_args/lr"


def needs(name):
    return pytest.mark.skipif(name not in HERE, reason=f"{name} is not installed: make trackers")


@pytest.mark.parametrize(
    ("experiment", "folder", "group"),
    [
        ("pets/cats", "runs/pets/cats/version_3", None),
        ("pets/cats", "runs/pets/cats/sweep_0/test_3", "sweep_0"),
        ("cats", "big search/version_0", "big search"),  # sweep --resume "big search"
    ],
)
def test_a_run_of_a_sweep_is_named_after_it(experiment, folder, group, monkeypatch):
    monkeypatch.setattr(trackers, "MLFlowLogger", lambda *args, tags, **options: [*args, tags.get("group")])
    track = trackers.Trackers()
    track.run = Run(config={"experiment": experiment}, folder=Path(folder))
    title = "/".join(folder.split("/")[-2 if group else -1 :])
    assert track._make("mlflow", "sqlite:///m.db") == [experiment, title, "sqlite:///m.db", group]


class Down(DummyLogger):
    def log_hyperparams(self, params):
        raise RuntimeError(f"api_key for {params['experiment']} not configured.\nRun wandb login.")


def test_a_logger_of_ones_own_gets_the_config_and_without_a_login_is_one_line_before_training(tmp_path, capfd):
    run = stopping.fit(tmp_path, stopping.config(logger={"class_path": f"{__name__}.Down"}))
    err = capfd.readouterr().err
    assert "error: A tracker does not start: api_key for sums not configured. Run wandb login.\n" in err
    assert "Traceback" not in err
    assert not (run / "metrics.csv").exists()


class Failing(DummyLogger):
    """Its server is gone after the start."""

    calls = 0

    def log_metrics(self, metrics, step=None):
        Failing.calls += 1
        raise RuntimeError("The server\ndoes not answer.")


def test_a_tracker_that_fails_is_reported_once_and_ends_no_run(fit_sums, monkeypatch):
    monkeypatch.setattr(trackers.Trackers, "_make", lambda *_: Failing())
    done = fit_sums("--track.tensorboard=true", "--trainer.max_epochs=2")
    warning = "warning: Failing: The server does not answer. The run continues without it; metrics.csv has its numbers."
    assert done.err.count(warning) == Failing.calls == 1
    assert len(stopping.rows(Path("runs/sums/version_0"))) == 2


class Draws(RunCallback):
    """Sends a red square of 6 by 4 after the training."""

    def on_train_end(self, trainer, module):
        if trainer.is_global_zero:
            path = self.run.folder / "square.png"
            Image.new("RGB", (6, 4), RED).save(path)
            trackers.send_picture(trainer.loggers, "square", path, trainer.global_step)


def python(*words, cwd):
    """Run Python in a folder with an experiment of two epochs and their test, drawn."""
    made = stopping.config(callbacks=({"class_path": f"{__name__}.Draws"},), max_epochs=2) | {"test_after_fit": True}
    stopping.write(cwd, made)
    # Nobody is logged in, and trackers write nothing outside the folder.
    env = {name: value for name, value in os.environ.items() if not name.startswith("WANDB_")}
    env |= {"HOME": str(cwd), "PYTHONPATH": str(PROJECT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, *map(str, words)]
    done = subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    return done.stderr


FIT = ("-m", "src", "fit", "--config", "sums.yaml")


def wandb_rows(file):
    """The rows of a run's history as W&B wrote them offline, in LevelDB's log format: it has no reader in Python."""
    from wandb.proto import wandb_internal_pb2

    content, place, part, rows = file.read_bytes(), 7, b"", []
    while place + 7 <= len(content):
        if (left := 32_768 - place % 32_768) < 7:  # a block's rest has no room for a header
            place += left
            continue
        length, kind = int.from_bytes(content[place + 4 : place + 6], "little"), content[place + 6]
        part += content[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (1, 4):  # the whole of a record, or its end
            record, part = wandb_internal_pb2.Record.FromString(part), b""
            if record.WhichOneof("record_type") == "history":
                pairs = ((item.nested_key or [item.key], item.value_json) for item in record.history.item)
                rows.append({"/".join(names): json.loads(value) for names, value in pairs})
    return rows


def colour(content):
    """Of a picture of 6 by 4 in one colour."""
    with Image.open(io.BytesIO(content)) as image:
        assert image.size == (6, 4)
        (found,) = image.convert("RGB").getcolors()
    return found[1]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A fit of two epochs and its test by two processes, resumed for a third."""
    folder = tmp_path_factory.mktemp("tracked")
    resume = ("-m", "src", "fit", "--ckpt_path", "runs/sums/version_0", "--trainer.max_epochs=3")
    said = [python(*words, cwd=folder) for words in ((*FIT, *ALL, *processes(2)), resume)]
    assert "warning: " not in "".join(said)
    # MLflow makes its tables when it is first asked; two at once stumble over each other.
    assert said[0].count("Creating initial MLflow database tables") == ("mlflow" in HERE)
    return folder


@pytest.fixture(scope="module")
def wanted(folder):
    """What metrics.csv has, by the step as trackers count it; the first test's row made room for the third epoch."""
    found = stopping.rows(folder / "runs/sums/version_0")
    *epochs, test = [{name: float(value) for name, value in row.items() if value} for row in found]
    assert len(epochs) == 3
    first_test = min(row["val/loss"] for row in epochs[:2])  # it has the rows of the validation
    return {
        "val/loss": {row["step"] - 1: row["val/loss"] for row in epochs},
        "train/loss": {row["step"] - 1: row["train/loss"] for row in epochs},
        "test/loss": {12: first_test, 18: test["test/loss"]},
    }


def assert_all_is_there(scalars, wanted):
    for name, values in wanted.items():
        assert scalars[name] == pytest.approx(values), name


@pytest.mark.slow
@needs("tensorboard")
def test_tensorboard_has_it_all(folder, wanted):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

    events = EventAccumulator(str(folder / "runs/sums/version_0"))
    events.Reload()
    scalars = {tag: {each.step: each.value for each in events.Scalars(tag)} for tag in events.Tags()["scalars"]}
    assert_all_is_there(scalars, wanted)
    content = events.SummaryMetadata("_hparams_/session_start_info").plugin_data.content
    options = HParamsPluginData.FromString(content).session_start_info.hparams
    assert options[LR].number_value == 0.01
    assert {each.step: colour(each.encoded_image_string) for each in events.Images("square")} == {12: RED, 18: RED}


@pytest.mark.slow
@needs("mlflow")
def test_mlflow_has_it_all_in_one_run(folder, wanted, monkeypatch):
    from mlflow.tracking import MlflowClient

    monkeypatch.chdir(folder)
    client = MlflowClient("sqlite:///mlflow.db")
    (run,) = client.search_runs([client.get_experiment_by_name("sums").experiment_id])
    history = {name: client.get_metric_history(run.info.run_id, name) for name in run.data.metrics}
    assert_all_is_there({name: {each.step: each.value for each in found} for name, found in history.items()}, wanted)
    assert float(run.data.params[LR]) == 0.01
    assert run.info.status == "FINISHED"
    files = sorted(folder.glob(f"mlruns/*/{run.info.run_id}/artifacts/images/*.png"))
    assert [(each.name.split("+")[0], colour(each.read_bytes())) for each in files] == [("square", RED)] * 2


@pytest.mark.slow
@needs("wandb")
def test_wandb_has_it_all_in_two_parts_of_one_run(folder, wanted):
    run = folder / "runs/sums/version_0"
    files = sorted(run.glob("wandb/offline-run-*/*.wandb"))
    assert [file.stem for file in files] == [f"run-{(run / 'wandb_id').read_text()}"] * 2
    found = [row for file in files for row in wandb_rows(file)]
    numbers = [row["_step"] for row in found]
    assert numbers == sorted(set(numbers))
    scalars = {}
    for row in found:
        for name, value in row.items():
            scalars.setdefault(name, {})[row.get("trainer/global_step")] = value
    assert_all_is_there(scalars, wanted)
    assert b"torch.optim.Adam" in files[0].read_bytes()
    for file in files:
        (picture,) = file.parent.glob("files/media/images/square_*.png")
        assert colour(picture.read_bytes()) == RED


@pytest.mark.slow
@needs("wandb")
def test_two_fits_of_one_program_are_two_runs(tmp_path):
    """As in a sweep: W&B alone would write the second into the first."""
    twice = f"from src.cli import main\nfor _ in range(2): main({[*FIT[2:], OPTIONS['wandb']]})"
    python("-c", twice, cwd=tmp_path)
    for number in range(2):
        (file,) = tmp_path.glob(f"runs/sums/version_{number}/wandb/offline-run-*/*.wandb")
        assert sum("test/loss" in row for row in wandb_rows(file)) == 1
