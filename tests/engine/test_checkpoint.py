"""One file is enough: a checkpoint carries its config, and holds plain values only."""

import pickletools
import shutil
import zipfile
from typing import ClassVar

import pytest
import torch
import yaml
from lightning.pytorch import Callback

from src.module import LitModule
from tests.conftest import SMALL, run_process

SHORT = ("--trainer.max_epochs=1", "--data.passes=50", "--trainer.callbacks=null")


@pytest.fixture
def fitted(cli, tmp_path):
    """The folder of a short run with a width of its own."""
    done = cli("fit", "--config", SMALL, *SHORT, "--model.net.hidden=7")
    assert done.code == 0, done.err
    return tmp_path / "runs/xor/version_0"


@pytest.mark.parametrize("verb", ["validate", "test", "predict", "fit"])
def test_every_verb_runs_from_the_checkpoint_alone(fitted, cli, verb):
    done = cli(verb, "--ckpt_path", fitted / "checkpoints/best.ckpt")
    assert done.code == 0, done.err


def test_a_folder_of_a_run_means_its_last_checkpoint(fitted, cli):
    (fitted / "checkpoints/best.ckpt").unlink()
    assert cli("test", "--ckpt_path", fitted).code == 0


@pytest.mark.slow
def test_it_runs_from_any_folder_and_from_the_file_alone(fitted, tmp_path):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    shutil.move(fitted / "checkpoints/best.ckpt", elsewhere / "mine.ckpt")
    shutil.rmtree(tmp_path / "runs")
    done = run_process("test", "--ckpt_path", "mine.ckpt", cwd=elsewhere)
    assert done.returncode == 0, done.stderr


def test_options_beside_the_checkpoint_win(fitted, cli, tmp_path):
    assert cli("test", "--ckpt_path", fitted, "--data.batch_size=2", "--model.metrics=null").code == 0
    config = yaml.safe_load((tmp_path / "runs/xor/version_1/config.yaml").read_text())
    assert config["data"]["init_args"]["batch_size"] == 2
    assert config["model"]["init_args"]["metrics"] is None
    assert config["model"]["init_args"]["net"]["init_args"]["hidden"] == 7


def test_a_number_that_json_does_not_know_is_carried_too(cli):
    assert cli("fit", "--config", SMALL, *SHORT, "--trainer.gradient_clip_val=.inf").code == 0
    done = cli("test", "--ckpt_path", "runs/xor/version_0")
    assert done.code == 0, done.err


def test_a_config_beside_the_checkpoint_wins_too(fitted, cli, tmp_path):
    (tmp_path / "more.yaml").write_text("data: {init_args: {batch_size: 1}}\n")
    assert cli("test", "--config", "more.yaml", "--ckpt_path", fitted).code == 0
    config = yaml.safe_load((tmp_path / "runs/xor/version_1/config.yaml").read_text())
    assert config["data"]["init_args"]["batch_size"] == 1


def test_test_metrics_from_the_checkpoint_are_those_of_the_fit(fitted, cli):
    at_fit = cli("fit", "--config", fitted / "config.yaml").metrics
    alone = cli("test", "--ckpt_path", fitted / "checkpoints/best.ckpt").metrics
    assert alone == {name: at_fit[name] for name in ("test/loss", "test/acc")}


def test_a_notebook_loads_it_in_one_line(fitted):
    module = LitModule.load_from_checkpoint(fitted / "checkpoints/best.ckpt")
    weights = torch.load(fitted / "checkpoints/best.ckpt", weights_only=True)["state_dict"]
    assert all(torch.equal(value, weights[name]) for name, value in module.state_dict().items())
    assert not module.training
    assert module(torch.zeros(3, 2)).shape == (3, 1)


def test_it_holds_plain_values_only(fitted):
    with zipfile.ZipFile(fitted / "checkpoints/last.ckpt") as file:
        (name,) = [name for name in file.namelist() if name.endswith("data.pkl")]
        steps = list(pickletools.genops(file.read(name)))
    # The classes and functions that loading would call.
    called = {str(argument) for code, argument, _ in steps if code.name in ("GLOBAL", "STACK_GLOBAL")}
    assert called <= {"collections OrderedDict", "torch._utils _rebuild_tensor_v2", "torch FloatStorage"} | {
        f"torch {kind}Storage" for kind in ("Long", "Byte", "Double", "Int", "Bool")
    }


def test_without_a_checkpoint_callback_fit_and_its_test_still_run(cli, tmp_path):
    done = cli("fit", "--config", SMALL, *SHORT, "--trainer.enable_checkpointing=false")
    assert done.code == 0, done.err
    assert "test/acc" in done.metrics
    assert not (tmp_path / "runs/xor/version_0/checkpoints").exists()


class Scores(Callback):
    """Keeps the metrics of each validation."""

    seen: ClassVar[list[dict[str, float]]] = []

    def on_validation_end(self, trainer, module) -> None:
        if not trainer.sanity_checking:
            self.seen.append({name: float(value) for name, value in trainer.callback_metrics.items()})


@pytest.mark.parametrize(("metric", "best"), [("val/acc", max), ("val/loss", min)])
def test_the_best_one_has_the_larger_accuracy_or_the_smaller_loss(cli, metric, best):
    Scores.seen.clear()
    short = ("--data.passes=50", "--trainer.callbacks=tests.engine.test_checkpoint.Scores", "--test_after_fit=false")
    assert cli("fit", "--config", SMALL, f"--checkpoint.monitor={metric}", *short).code == 0
    values = [scores[metric] for scores in Scores.seen]
    assert min(values) < max(values)
    checkpoint = torch.load("runs/xor/version_0/checkpoints/best.ckpt", weights_only=True)
    assert checkpoint["callbacks"]["RunCheckpoint"]["best_score"] == best(values)


def test_a_runs_folder_and_its_checkpoints_stand_for_the_last_one(cli, tmp_path, monkeypatch):
    assert cli("fit", "--config", SMALL, *SHORT).code == 0
    run = tmp_path / "runs/xor/version_0"
    last = LitModule.load_from_checkpoint(run / "checkpoints/last.ckpt").state_dict()
    assert all(
        torch.equal(last[name], value) for name, value in LitModule.load_from_checkpoint(run).state_dict().items()
    )
    assert cli("test", "--ckpt_path", run / "checkpoints").code == 0
    # A run goes on in its own folder also when it is named from within.
    monkeypatch.chdir(run / "checkpoints")
    assert cli("fit", "--ckpt_path", "last.ckpt", "--trainer.max_epochs=2").code == 0
    assert {path.name for path in run.parent.iterdir()} == {"version_0", "version_1"}
    assert {path.name for path in (run / "checkpoints").iterdir()} == {"best.ckpt", "last.ckpt"}
