"""What is measured while a run trains, by a clock that the test keeps."""

import contextlib
import csv
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import pytest
import torch
import yaml
from lightning.pytorch import Callback
from lightning.pytorch.loggers.logger import DummyLogger
from lightning.pytorch.strategies import FSDPStrategy

from src.engine import speed
from src.engine.errors import UserError
from src.engine.grad_norm import GradNorm
from src.module import LitModule
from tests.processes import launch, processes
from tests.processes import rows as measured
from tests.stopping import Sums, config, fit, resume, rows, run_differences

SPEED = ["train/data_wait_share", "train/samples_per_s"]


WAIT_S = 2.0  # for each batch


class Clock:
    """In the place of `time`: seconds pass only where these tests say so."""

    now_s = 0.0

    @staticmethod
    def perf_counter():
        return Clock.now_s


@pytest.fixture(autouse=True)
def clock(monkeypatch):
    monkeypatch.setattr("src.engine.speed.time", Clock)


class ByTheClock(Callback):
    """Has a process of its own measure by it."""

    def setup(self, trainer, module, stage):
        speed.time = Clock


class Passing:
    """A loader; for each batch seconds pass."""

    def __init__(self, loader, seconds):
        self.loader, self.seconds = loader, seconds

    def __len__(self):
        return len(self.loader)

    def __iter__(self):
        for batch in self.loader:
            Clock.now_s += self.seconds
            yield batch


class PassingData(Sums):
    def train_dataloader(self):
        return Passing(super().train_dataloader(), WAIT_S)

    def val_dataloader(self):
        return Passing(super().val_dataloader(), 100.0)


def step_s(batch_idx, rank=0):
    """How long a training step takes: each another time, on the second process twice as long."""
    return (3.0 + batch_idx) * (1 + rank)


class PassingModule(LitModule):
    def training_step(self, batch, batch_idx):
        Clock.now_s += step_s(batch_idx, self.global_rank)
        return super().training_step(batch, batch_idx)

    def validation_step(self, batch, batch_idx, dataloader_idx=0):
        Clock.now_s += 1_000.0
        super().validation_step(batch, batch_idx, dataloader_idx)


class ByHand(PassingModule):
    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.automatic_optimization = False

    def training_step(self, batch, batch_idx):
        optimizer = self.optimizers()
        optimizer.zero_grad()
        self.manual_backward(super().training_step(batch, batch_idx))
        optimizer.step()


class Told(DummyLogger):
    """A logger that keeps what it is told of the speed."""

    numbers: ClassVar[list[dict[str, float]]] = []

    def log_metrics(self, metrics, step=None):
        if set(SPEED) & metrics.keys():
            Told.numbers.append(metrics)


def passing(module: str = "PassingModule", **more: Any) -> dict[str, Any]:
    """An experiment with this clock; an epoch has 12 batches of 4."""
    experiment = config(callbacks=({"class_path": f"{__name__}.ByTheClock"},), **more)
    experiment["model"] = {"class_path": f"{__name__}.{module}", "init_args": experiment["model"]}
    experiment["data"] = {"class_path": f"{__name__}.PassingData"}
    experiment["trainer"]["logger"] = {"class_path": f"{__name__}.Told"}
    Told.numbers = []
    return experiment


def expected(batches: range, ranks: int = 1) -> dict[str, Any]:
    """Of the batches of an epoch: all samples over the time of the slowest process, the mean of the shares waited."""
    waited_s = WAIT_S * len(batches)
    seconds = [waited_s + sum(step_s(number, rank) for number in batches) for rank in range(ranks)]
    values = [sum(waited_s / each for each in seconds) / ranks, 4 * ranks * len(batches) / max(seconds)]
    return dict(zip(SPEED, (pytest.approx(value, rel=1e-6) for value in values), strict=True))


@pytest.mark.parametrize("case", [{}, {"accumulate_grad_batches": 5}, {"val_check_interval": 5}, {"module": "ByHand"}])
def test_an_epoch_is_measured_without_its_validations(tmp_path, case):
    run = fit(tmp_path, passing(**case))
    assert Told.numbers == [expected(range(12))] * 3
    assert not set(SPEED) & set(rows(run)[0])


def test_a_run_that_goes_on_amid_an_epoch_is_measured_from_there(tmp_path):
    run = fit(tmp_path, passing(every_n_steps=1), ("on_train_batch_end", 18))
    assert resume(run) == 0
    # The stop came before the checkpoint of the same step.
    assert Told.numbers == [expected(range(12)), expected(range(5, 12)), expected(range(12))]


@pytest.mark.slow
def test_two_processes_are_measured_as_one(tmp_path):
    (tmp_path / "experiment.yaml").write_text(yaml.safe_dump(passing(max_epochs=2)))
    launch("fit", "--config", "experiment.yaml", "--speed.csv=true", *processes(2), cwd=tmp_path)
    found = [{name: row[name] for name in SPEED} for row in measured(tmp_path / "runs/sums/version_0")]
    assert found == [expected(range(6), ranks=2)] * 2


def test_asked_for_the_speed_is_in_metrics_csv(tmp_path):
    run = fit(tmp_path, passing() | {"speed": {"csv": True}})
    assert [{name: float(row[name]) for name in SPEED} for row in rows(run)] == [expected(range(12))] * 3
    # Lightning itself tells a logger what is logged.
    assert [{name: told[name] for name in SPEED} for told in Told.numbers] == [expected(range(12))] * 3


def test_without_a_reader_nothing_measures(tmp_path):
    fit(tmp_path, config(callbacks=({"class_path": f"{__name__}.Names"},)))
    assert not {"Speed", "GradNorm"} & Names.found
    assert "MetricsCsv" in Names.found


class Names(Callback):
    found: ClassVar[set[str]] = set()

    def on_train_start(self, trainer, module):
        Names.found = {type(each).__name__ for each in trainer.callbacks}


class Norms(Callback):
    """Computes each step's norm in the plainest way."""

    found: ClassVar[list[float]] = []

    def on_before_optimizer_step(self, trainer, module, optimizer):
        squares = [each.grad.double().square().sum() for each in module.parameters() if each.grad is not None]
        Norms.found.append(math.sqrt(sum(squares)))


@pytest.mark.parametrize(("accumulate", "steps"), [(1, 12), (5, 3)])
def test_the_norm_of_the_gradient_is_the_mean_over_the_steps_before_clipping(tmp_path, accumulate, steps):
    Norms.found = []
    trainer = {"gradient_clip_val": 0.01, "accumulate_grad_batches": accumulate}
    callbacks = ({"class_path": f"{__name__}.Norms"},)
    run = fit(tmp_path, config(callbacks=callbacks, **trainer) | {"grad_norm": {"enabled": True}})
    for number, row in enumerate(rows(run)):
        norms = Norms.found[number * steps :][:steps]
        assert float(row["train/grad_norm"]) == pytest.approx(sum(norms) / steps, rel=1e-5)


def test_each_of_two_optimizers_has_a_norm(cli, tmp_path):
    from tests.tasks import gan

    gan.write_data(tmp_path)
    done = cli(
        *("fit", "--model", "tests.tasks.gan.Gan", "--data", "tests.tasks.gan.Data", "--experiment", "gan"),
        *("--trainer.max_epochs", "1", "--grad_norm.enabled", "true", "--trainer.accelerator", "cpu"),
    )
    assert done.code == 0, done.err
    with Path("runs/gan/version_0/metrics.csv").open(newline="") as file:
        (row,) = csv.DictReader(file)
    first, second = float(row["train/grad_norm"]), float(row["train/grad_norm/1"])
    assert first > 0
    assert second > 0
    assert first != second


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run with the norm of its gradients that nothing stops."""
    return fit(tmp_path_factory.mktemp("whole"), config() | {"grad_norm": {"enabled": True}})


@pytest.mark.parametrize("stop", [("on_train_batch_end", 7), ("on_validation_end", 2), ("on_train_epoch_end", 2)])
def test_the_norm_is_the_same_to_the_bit_after_a_resume(whole, tmp_path, stop):
    run = fit(tmp_path, config() | {"grad_norm": {"enabled": True}}, stop)
    assert resume(run) == 0
    assert rows(whole)[0]["train/grad_norm"]
    assert run_differences(whole, run) == []


def test_where_a_fused_optimizer_sees_the_scaled_gradient_alone_its_norm_is_refused():
    net = torch.nn.Linear(1, 1)
    for fused, precision, refused in [(True, "16-mixed", True), (False, "16-mixed", False), (True, "32-true", False)]:
        optimizers = [torch.optim.AdamW(net.parameters(), fused=fused)]
        trainer = SimpleNamespace(optimizers=optimizers, precision=precision)  # on CUDA alone a scaler is at work
        with pytest.raises(UserError, match=r"optimizer.fused false") if refused else contextlib.nullcontext():
            GradNorm(enabled=True).on_train_start(trainer, net)


def test_where_no_process_has_the_whole_gradient_its_norm_is_refused():
    with pytest.raises(UserError, match="with FSDPStrategy no process has the whole gradient"):
        GradNorm(enabled=True).setup(SimpleNamespace(strategy=FSDPStrategy()), torch.nn.Linear(1, 1), "fit")
