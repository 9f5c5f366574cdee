"""Each tracker for real, without its server: what reached it is read back; one run, resumed, in all that are here."""

import contextlib
import io
import json
import os
import signal
import sqlite3
import subprocess
import sys

import pytest
import yaml
from lightning.pytorch import Callback
from PIL import Image

from tests.engine import tracked
from tests.processes import free_port, processes
from tests.stopping import config, rows

pytestmark = pytest.mark.slow
RED, GREEN = (255, 0, 0), (0, 255, 0)
LR = "model.optimizer.lr"


def needs(name):
    return pytest.mark.skipif(
        name not in tracked.HERE, reason=f"{name} is not installed: uv pip install --group trackers"
    )


def colour(content: bytes) -> tuple[int, int, int]:
    """Of a picture of 6 by 4 in one colour."""
    with Image.open(io.BytesIO(content)) as image:
        assert image.size == (6, 4)
        (found,) = image.convert("RGB").getcolors()
    return found[1]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A fit of two epochs and its test, gone on with for a third."""
    folder = tmp_path_factory.mktemp("tracked")
    tracked.write_experiment(folder)
    for command in (
        ["--config", "sums.yaml", *tracked.ALL],
        ["--ckpt_path", "runs/sums/version_0", "--trainer.max_epochs=3"],
    ):
        done = tracked.run("fit", *command, cwd=folder)
        assert done.returncode == 0, done.stderr
        assert "warning: " not in done.stderr
    return folder


@pytest.fixture(scope="module")
def wanted(folder):
    """What metrics.csv has, by the step as trackers count it; the first test's row made room for the third epoch."""
    found = rows(folder / "runs/sums/version_0")
    *epochs, test = [{name: float(value) for name, value in row.items() if value} for row in found]
    assert len(epochs) == 3
    first_test = min(row["val/loss"] for row in epochs[:2])  # it has the rows of the validation
    return {
        "val/loss": {row["step"] - 1: row["val/loss"] for row in epochs},
        "train/loss": {row["step"] - 1: row["train/loss"] for row in epochs},
        "test/loss": {24: first_test, 36: test["test/loss"]},
    }


def assert_all_is_there(scalars: dict[str, dict[int, float]], wanted: dict[str, dict[int, float]]) -> None:
    """Each value once, at its step."""
    for name, values in wanted.items():
        assert scalars[name] == pytest.approx(values), name


@needs("tensorboard")
def test_tensorboard_has_it_all(folder, wanted):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

    events = EventAccumulator(str(folder / "runs/sums/version_0"))
    events.Reload()
    scalars = {tag: {each.step: each.value for each in events.Scalars(tag)} for tag in events.Tags()["scalars"]}
    assert_all_is_there(scalars, wanted)
    assert list(scalars["hp_metric"].values())[1:] == pytest.approx(list(wanted["val/loss"].values()))
    content = events.SummaryMetadata("_hparams_/session_start_info").plugin_data.content
    options = HParamsPluginData.FromString(content).session_start_info.hparams
    assert options[LR].number_value == 0.01
    assert options["model.optimizer"].string_value == "torch.optim.Adam"
    assert {each.step: colour(each.encoded_image_string) for each in events.Images("square")} == {24: RED, 36: RED}
    assert colour(events.Images("test_square")[-1].encoded_image_string) == GREEN


@needs("mlflow")
def test_mlflow_has_it_all_in_one_run(folder, wanted, monkeypatch):
    from mlflow.tracking import MlflowClient

    monkeypatch.chdir(folder)
    client = MlflowClient("sqlite:///mlflow.db")
    (run,) = client.search_runs([client.get_experiment_by_name("sums").experiment_id])
    history = {name: client.get_metric_history(run.info.run_id, name) for name in run.data.metrics}
    assert_all_is_there({name: {each.step: each.value for each in found} for name, found in history.items()}, wanted)
    assert float(run.data.params[LR]) == 0.01
    assert run.data.params["trainer.max_epochs"] == "2"
    assert run.data.tags["changed.trainer.max_epochs"] == "3"
    assert run.info.status == "FINISHED"
    files = sorted(folder.glob(f"mlruns/*/{run.info.run_id}/artifacts/images/*.png"))
    pictures = [(each.name.split("+")[0], colour(each.read_bytes())) for each in files]
    assert pictures == [("square", RED)] * 2 + [("test_square", GREEN)] * 2


@needs("wandb")
def test_wandb_has_it_all_in_two_parts_of_one_run(folder, wanted):
    run = folder / "runs/sums/version_0"
    files = sorted(run.glob("wandb/offline-run-*/*.wandb"))
    assert [file.stem for file in files] == [f"run-{(run / 'wandb_id').read_text()}"] * 2
    found = [tracked.wandb_rows(file) for file in files]
    numbers = [row["_step"] for part in found for row in part]
    assert numbers == sorted(set(numbers))
    scalars: dict[str, dict[int, float]] = {}
    for row in [row for part in found for row in part]:
        for name, value in row.items():
            scalars.setdefault(name, {})[row.get("trainer/global_step")] = value
    assert_all_is_there(scalars, wanted)
    config = {
        each.key or each.nested_key[0]: json.loads(each.value_json)
        for record in tracked.wandb_records(files[0])
        if record.WhichOneof("record_type") == "config"
        for each in record.config.update
    }
    assert config[LR] == 0.01
    assert config["trainer.max_epochs"] == 2
    for name, expected in (("square", RED), ("test_square", GREEN)):
        for file in files:
            (picture,) = file.parent.glob(f"files/media/images/{name}_*.png")
            assert colour(picture.read_bytes()) == expected


def test_two_processes_are_one_run_in_each_tracker(tmp_path):
    """MLflow makes its tables when it is first asked; two at once stumble over each other."""
    tracked.write_experiment(tmp_path)
    done = tracked.run("fit", "--config", "sums.yaml", *tracked.ALL, *processes(2), cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    run = tmp_path / "runs/sums/version_0"
    if "mlflow" in tracked.HERE:
        assert done.stderr.count("Creating initial MLflow database tables") == 1
        with sqlite3.connect(tmp_path / "mlflow.db") as tables:
            assert tables.execute("select count(*) from runs").fetchone() == (1,)
            ((last,),) = tables.execute("select value from metrics where key = 'val/loss' and step = 11").fetchall()
        assert last == pytest.approx(float(rows(run)[1]["val/loss"]))
    if "wandb" in tracked.HERE:
        (file,) = run.glob("wandb/offline-run-*/*.wandb")
        assert sum("val/loss" in row for row in tracked.wandb_rows(file)) == 2


def test_two_fits_of_one_program_are_two_runs(tmp_path):
    """As of a sweep: W&B alone would write the second into the first."""
    tracked.write_experiment(tmp_path)
    command = ["fit", "--config", "sums.yaml", *tracked.ALL]
    program = f"from src.cli import main\nfor _ in range(2): main({command})"
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=tmp_path,
        env=tracked.environment(tmp_path),
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    runs = [tmp_path / "runs/sums" / f"version_{number}" for number in range(2)]
    for run in runs:
        if "wandb" in tracked.HERE:
            (file,) = run.glob("wandb/offline-run-*/*.wandb")
            assert sum("test/loss" in row for row in tracked.wandb_rows(file)) == 1


@needs("wandb")
def test_without_a_login_nothing_is_begun(tmp_path):
    tracked.write_experiment(tmp_path)
    done = tracked.run("fit", "--config", "sums.yaml", "--track.wandb=online", cwd=tmp_path)
    assert done.returncode != 0
    assert done.stderr.splitlines()[-1].startswith("error: --track.wandb online: No API key")
    assert "wandb login" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "runs").exists()


class Interrupts(Callback):
    """Ends the server whose number the environment has, and its children, amid the second epoch."""

    def on_train_batch_end(self, trainer, module, *rest):
        if trainer.global_step == 18:
            os.killpg(int(os.environ["SERVER"]), signal.SIGKILL)


@needs("mlflow")
def test_a_server_that_goes_away_costs_no_fit(tmp_path):
    port, env = free_port(), tracked.environment(tmp_path)
    command = [sys.executable, "-m", "mlflow", "server", "--backend-store-uri", "sqlite:///server.db", "--workers", "1"]
    started = {"cwd": tmp_path, "env": env, "start_new_session": True, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen([*command, "--port", str(port)], **started) as server:
        try:
            assert any("startup complete" in line for line in server.stderr)
            callback = {"class_path": f"{__name__}.Interrupts"}
            (tmp_path / "sums.yaml").write_text(yaml.safe_dump(config(callbacks=(callback,))))
            env |= {"SERVER": str(server.pid), "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1"}
            option = f"--track.mlflow=http://127.0.0.1:{port}"
            done = tracked.run("fit", "--config", "sums.yaml", option, cwd=tmp_path, env=env)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(server.pid, signal.SIGKILL)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("warning: MLFlowLogger: ") == 1
    assert len(rows(tmp_path / "runs/sums/version_0")) == 3
    with sqlite3.connect(tmp_path / "server.db") as tables:
        assert tables.execute("select count(*) from metrics where key = 'val/loss'").fetchone() == (1,)
