"""What is measured while a run trains: each figure lies between two that the test measures itself."""

import contextlib
import csv
import math
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import pytest
import torch
import yaml
from lightning.pytorch import Callback
from lightning.pytorch.loggers.logger import DummyLogger
from lightning.pytorch.strategies import FSDPStrategy

from src.engine.errors import UserError
from src.engine.grad_norm import GradNorm
from src.module import LitModule
from tests.processes import launch, processes
from tests.stopping import Sums, config, fit, resume, rows, run_differences

SPEED = ["train/data_wait_share", "train/samples_per_s"]


class Slow(Sums):
    """Makes each batch with some work, and notes how long that took; in validation with more."""

    def train_dataloader(self):
        return Worked(super().train_dataloader(), "waited_s", 1)

    def val_dataloader(self):
        return Worked(super().val_dataloader(), "validated_s", 5)


class Worked:
    def __init__(self, loader, where, times):
        self.loader, self.where, self.times = loader, where, times

    def __len__(self):
        return len(self.loader)

    def __iter__(self):
        for batch in self.loader:
            start = time.perf_counter()
            for _ in range(self.times):
                work()
            setattr(Witness, self.where, getattr(Witness, self.where) + time.perf_counter() - start)
            yield batch


class SlowModule(LitModule):
    """Works in validation, too, and notes how long each took."""

    def training_step(self, batch, batch_idx):
        start = time.perf_counter()
        work()
        Witness.trained_s += time.perf_counter() - start
        return super().training_step(batch, batch_idx)

    def validation_step(self, batch, batch_idx, dataloader_idx=0):
        start = time.perf_counter()
        work()
        work()
        if not self.trainer.sanity_checking:
            Witness.validated_s += time.perf_counter() - start
        super().validation_step(batch, batch_idx, dataloader_idx)


class ByHand(SlowModule):
    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.automatic_optimization = False

    def training_step(self, batch, batch_idx):
        optimizer = self.optimizers()
        optimizer.zero_grad()
        self.manual_backward(super().training_step(batch, batch_idx))
        optimizer.step()


def work():
    x = torch.ones(150, 150)
    for _ in range(10):
        x = x @ x / 150


class Witness(Callback):
    """Keeps the clock from outside, and counts."""

    waited_s: ClassVar[float] = 0.0
    trained_s: ClassVar[float] = 0.0
    validated_s: ClassVar[float] = 0.0
    start_s: ClassVar[float] = 0.0
    ended_s: ClassVar[float] = 0.0
    num_samples: ClassVar[int] = 0

    def begin(self, start_s):
        Witness.waited_s = Witness.trained_s = Witness.validated_s = 0.0
        Witness.num_samples, Witness.start_s = 0, start_s

    def setup(self, trainer, module, stage):
        Witness.ended_s = time.perf_counter()

    def on_train_start(self, trainer, module):
        self.begin(time.perf_counter())

    def on_train_epoch_start(self, trainer, module):
        # Another process may begin earlier, but not before this one had ended the epoch before.
        self.begin(time.perf_counter() if trainer.world_size == 1 else Witness.ended_s)

    def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
        Witness.num_samples += len(batch[0]) * trainer.world_size

    def on_train_epoch_end(self, trainer, module):
        Witness.ended_s = time.perf_counter()


class Compared(DummyLogger):
    """A logger that holds what it is told of the speed against what was seen."""

    told: ClassVar[list[dict[str, float]]] = []
    alone: ClassVar[bool] = True

    def log_metrics(self, metrics, step=None):
        if "train/samples_per_s" not in metrics:
            return
        Compared.told.append(metrics)
        least = Witness.waited_s + Witness.trained_s
        most = time.perf_counter() - Witness.start_s - Witness.validated_s
        seconds = Witness.num_samples / metrics["train/samples_per_s"]
        assert least * 0.9999 <= seconds <= most * 1.0001  # float32
        if self.alone:
            wait_s = metrics["train/data_wait_share"] * seconds
            assert Witness.waited_s * 0.9999 <= wait_s <= (seconds - Witness.trained_s) * 1.0001


class ComparedOfSeveral(Compared):
    """The time waited is a mean over the processes, of which only one is seen."""

    alone = False


def watched(module: str = "SlowModule", **more: Any) -> dict[str, Any]:
    """An experiment under these eyes."""
    experiment = config(callbacks=({"class_path": f"{__name__}.Witness"},), **more)
    experiment["model"] = {"class_path": f"{__name__}.{module}", "init_args": experiment["model"]}
    experiment["data"] = {"class_path": f"{__name__}.Slow"}
    experiment["trainer"]["logger"] = {"class_path": f"{__name__}.Compared"}
    Compared.told = []
    return experiment


@pytest.mark.parametrize("case", [{}, {"accumulate_grad_batches": 5}, {"val_check_interval": 5}, {"module": "ByHand"}])
def test_what_is_measured_lies_within_what_was_seen(tmp_path, case):
    run = fit(tmp_path, watched(**case))
    assert [sorted(told) for told in Compared.told] == [SPEED] * 3
    assert not set(SPEED) & set(rows(run)[0])


def test_a_run_that_goes_on_amid_an_epoch_is_measured_from_there(tmp_path):
    run = fit(tmp_path, watched(), ("on_train_batch_end", 18))
    assert resume(run) == 0
    assert len(Compared.told) == 3


@pytest.mark.slow
def test_two_processes_are_measured_as_one(tmp_path):
    experiment = watched(max_epochs=2, limit_val_batches=0)
    experiment["trainer"]["logger"] = {"class_path": f"{__name__}.ComparedOfSeveral"}
    (tmp_path / "experiment.yaml").write_text(yaml.safe_dump(experiment))
    launch("fit", "--config", "experiment.yaml", "--speed.csv=true", *processes(2), cwd=tmp_path)
    assert len(rows(tmp_path / "runs/sums/version_0")) == 2


def test_asked_for_the_speed_is_in_metrics_csv(tmp_path):
    run = fit(tmp_path, config() | {"speed": {"csv": True}})
    found = [[float(row[name]) for name in SPEED] for row in rows(run)]
    assert len(found) == 3
    assert all(0 < wait < 1 and per_s > 0 for wait, per_s in found)


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
