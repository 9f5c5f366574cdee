"""One file is enough: a checkpoint carries its config, and holds plain values only."""

import pickletools
import shutil
import zipfile
from pathlib import Path
from typing import ClassVar

import pytest
import torch
import yaml
from lightning.pytorch import Callback, LightningModule

from src.engine.checkpoint.files import read_checkpoint
from src.engine.errors import UserError
from src.module import LitModule
from tests.conftest import CONFIGS, SMALL, run_process

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


@pytest.mark.slow
def test_it_runs_from_any_folder_and_from_the_file_alone(fitted, tmp_path):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    shutil.move(fitted / "checkpoints/best.ckpt", elsewhere / "mine.ckpt")
    shutil.rmtree(tmp_path / "runs")
    done = run_process("test", "--ckpt_path", "mine.ckpt", cwd=elsewhere)
    assert done.returncode == 0, done.stderr


def test_options_beside_the_checkpoint_win(fitted, cli, tmp_path):
    (tmp_path / "more.yaml").write_text("data: {init_args: {passes: 3}}\n")
    options = ("--config", "more.yaml", "--data.batch_size=2", "--model.metrics=null")
    assert cli("test", "--ckpt_path", fitted, *options).code == 0
    config = yaml.safe_load((tmp_path / "runs/xor/version_1/config.yaml").read_text())
    assert (config["data"]["init_args"]["batch_size"], config["data"]["init_args"]["passes"]) == (2, 3)
    assert config["model"]["init_args"]["metrics"] is None
    assert config["model"]["init_args"]["net"]["init_args"]["hidden"] == 7


def test_a_number_that_json_does_not_know_is_carried_too(cli):
    assert cli("fit", "--config", SMALL, *SHORT, "--trainer.gradient_clip_val=.inf").code == 0
    done = cli("test", "--ckpt_path", "runs/xor/version_0")
    assert done.code == 0, done.err


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


SCHEDULERS = {
    "warm-up": ["--config", str(CONFIGS / "scheduler/warmup_cosine.yaml")],
    "cosine": ["--model.scheduler=CosineAnnealingLR", "--model.scheduler.T_max=null"],
    "linear": ["--model.scheduler=LinearLR", "--model.scheduler.total_iters=null"],
    "plateau": ["--model.scheduler=lightning.pytorch.cli.ReduceLROnPlateau", "--model.scheduler.monitor=val/loss"],
}


@pytest.mark.parametrize("options", SCHEDULERS.values(), ids=SCHEDULERS.keys())
def test_a_notebook_loads_a_run_with_a_scheduler_that_knows_its_length(options, cli):
    assert cli("fit", "--config", SMALL, *SHORT, *options).code == 0
    module = LitModule.load_from_checkpoint("runs/xor/version_0")
    assert module.schedule_length is None  # that was the other run's


class Plain(LightningModule):
    """Lightning alone; makes its last layer late, and looks into the checkpoint."""

    def __init__(self, width: int = 3) -> None:
        super().__init__()
        self.hidden = torch.nn.Linear(2, width)

    def configure_model(self) -> None:
        self.last = torch.nn.Linear(self.hidden.out_features, 1)

    def training_step(self, batch, index):
        x, target = batch
        return (self.last(self.hidden(x)) - target).square().mean()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.1)

    def on_save_checkpoint(self, checkpoint):
        checkpoint["words"] = ["a", "b"]

    def on_load_checkpoint(self, checkpoint):
        self.words = checkpoint["words"]


@pytest.fixture
def plain(cli):
    """The folder of a run of a plain LightningModule."""
    net = ["--model", f"{__name__}.Plain", "--model.width=5", "--data=tests.xor.XorDataModule", "--data.passes=5"]
    done = cli("fit", *net, "--trainer.max_epochs=1", "--trainer.accelerator=cpu")
    assert done.code == 0, done.err
    return "runs/run/version_0"


def test_a_notebook_loads_a_run_of_a_plain_module(plain):
    module = LitModule.load_from_checkpoint(plain)
    weights = torch.load(f"{plain}/checkpoints/last.ckpt", weights_only=True)["state_dict"]
    assert type(module) is Plain
    assert module.words == ["a", "b"]
    assert module.hidden.out_features == 5
    assert all(torch.equal(value, weights[name]) for name, value in module.state_dict().items())
    assert LitModule.load_from_checkpoint(plain, map_location="meta").last.weight.device.type == "meta"


class Mine(LitModule):
    """A subclass that came later."""


def test_a_subclass_takes_the_place_of_the_class_in_the_config(fitted):
    assert type(Mine.load_from_checkpoint(str(fitted))) is Mine


def test_an_argument_that_does_not_fit_is_one_line_in_a_notebook(fitted):
    with pytest.raises(UserError, match=r"XorMLP\.width|width.*XorMLP"):
        LitModule.load_from_checkpoint(fitted, net={"class_path": "tests.xor.XorMLP", "init_args": {"width": 3}})


@pytest.mark.skipif(not Path("/proc/self/io").exists(), reason="asks Linux how many bytes were read")
def test_a_config_is_read_without_the_weights(tmp_path):
    def read() -> int:
        return int(Path("/proc/self/io").read_text().split()[1])

    path = tmp_path / "large.ckpt"
    torch.save({"config": {"a": 1}, "state_dict": {"weight": torch.ones(5_000_000)}}, path)
    before = read()
    assert read_checkpoint(path)["config"] == {"a": 1}
    assert read() - before < 1_000_000
    assert read_checkpoint(path)["state_dict"]["weight"].sum() == 5_000_000


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
