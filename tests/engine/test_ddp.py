"""Several processes train like one, evaluate each sample once, and end together."""

import os
import subprocess
import sys

import pytest
import torch

from tests.conftest import PROJECT
from tests.processes import (
    IN_DOUBLE,
    MNIST,
    XOR,
    assert_equal_runs,
    fail,
    finish,
    launch,
    processes,
    rows,
    start,
)


@pytest.fixture
def alone(tmp_path):
    """Run it in one process; returns the run's folder."""

    def run(*args):
        launch("fit", *args, "--trainer.accelerator=cpu", "--trainer.default_root_dir=alone", cwd=tmp_path)
        (folder,) = (tmp_path / "alone").glob("*/version_*")
        return folder

    return run


@pytest.fixture
def together(tmp_path):
    """Run it in several; returns the run's folder, the only one that came to be."""

    def run(number, *args, name="together"):
        place = f"--trainer.default_root_dir={name}"
        done = launch("fit", *args, *processes(number), place, cwd=tmp_path)
        assert done.stdout.count("parameters, on") == 1
        assert f"{number} x cpu" in done.stdout
        (folder,) = (tmp_path / name).glob("*/*")
        return folder

    return run


def test_two_processes_train_like_one(cli, together, tmp_path):
    short = (*XOR, *IN_DOUBLE, "--data.passes=20", "--trainer.max_epochs=2")
    assert cli("fit", *short, "--trainer.accelerator=cpu", "--trainer.default_root_dir=alone").code == 0
    one, two = tmp_path / "alone/xor/version_0", together(2, *short, "--data.batch_size=2")
    assert rows(one)[-1]["step"] == 40
    assert_equal_runs(one, two, 1e-9)


@pytest.mark.slow
def test_an_epoch_of_mnist_equals_that_of_one_process(alone, together, mnist):
    """The last batch is smaller, and does not divide by the number of processes."""
    epoch = (*MNIST, *mnist.options, *IN_DOUBLE, "--trainer.max_epochs=1", "--trainer.callbacks=null")
    assert_equal_runs(alone(*epoch, "--data.batch_size=513"), together(3, *epoch, "--data.batch_size=171"), 1e-9)


ORDERS = """
import torch
from lightning.pytorch import Trainer
from lightning.pytorch.demos.boring_classes import BoringModel
from torch.utils.data import DataLoader

from src.engine.data.adopt import adopt


class Notes(BoringModel):
    seen = []

    def train_dataloader(self):
        return DataLoader(torch.arange(40.0)[:, None].expand(40, 32), 5, shuffle=True)

    def training_step(self, batch, batch_idx):
        self.seen.extend(batch[:, 0].int().tolist())
        return super().training_step(batch, batch_idx)

    def on_train_end(self):
        shares = [None, None]
        torch.distributed.all_gather_object(shares, self.seen)
        assert sorted(shares[0] + shares[1]) == list(range(40)), shares


quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False, "limit_val_batches": 0}
trainer, module = Trainer(accelerator="cpu", devices=2, strategy="ddp", max_epochs=1, **quiet), Notes()
torch.manual_seed(trainer.global_rank)
adopt(trainer, module)
trainer.fit(module)
"""


@pytest.mark.slow
def test_processes_without_a_common_seed_agree_on_an_order(tmp_path):
    (tmp_path / "orders.py").write_text(ORDERS)
    environment = os.environ | {"PYTHONPATH": str(PROJECT)}
    done = subprocess.run([sys.executable, "orders.py"], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


class Unused(torch.nn.Linear):
    """A layer, and one that nobody calls."""

    def __init__(self) -> None:
        super().__init__(2, 1)
        self.idle = torch.nn.Linear(2, 2)


FAILURES = {
    "one breaks down": ([*XOR, *processes(3), *fail(rank=1, step=20)], "RuntimeError: rank 1 broke down"),
    "one is killed": (
        [*XOR, *processes(2), *fail(rank=1, step=20, kill="true")],
        "or it was killed (out of memory?)",
    ),
    "a download fails": (
        [*MNIST, *processes(2), "--data.root=nowhere", "--data.mirror=http://127.0.0.1:9/"],
        "error: Cannot get MNIST",
    ),
    "more of them than samples": ([*XOR, *processes(5)], "error: 4 samples cannot be shared by 5 processes"),
    "no gradient": ([*XOR, *processes(2), f"--model.net={__name__}.Unused"], "ddp_find_unused_parameters_true"),
}


@pytest.mark.slow
@pytest.mark.parametrize(("options", "said"), FAILURES.values(), ids=FAILURES.keys())
def test_a_failure_of_one_ends_all_and_is_named(options, said, tmp_path):
    done = finish(start("fit", *options, cwd=tmp_path), timeout_s=100)
    assert done.returncode != 0
    assert said in done.stderr
    if "error: " in said or "unused" in said:
        assert "Traceback" not in done.stderr
