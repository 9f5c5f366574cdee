"""Several processes train like one, evaluate each sample once, and end together."""

import csv
import os
import shutil
import subprocess
import sys

import pytest
import torch
from torchvision.io import write_png

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
    weights,
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
@pytest.mark.parametrize(("number", "batch_size"), [(2, 2), (3, 2)])
def test_a_whole_xor_run_on_several_processes_equals_that_of_one(alone, together, number, batch_size):
    """Three of them share four rows: one has two, and its loss counts more."""
    one = alone(*XOR, *IN_DOUBLE)
    several = together(number, *XOR, *IN_DOUBLE, f"--data.batch_size={batch_size}")
    assert rows(one)[-1]["test/acc"] == 1.0
    assert rows(one)[-1]["step"] == rows(several)[-1]["step"] == 2_000
    assert_equal_runs(one, several, 1e-9)


@pytest.mark.slow
def test_in_float32_they_are_equal_within_rounding(alone, together):
    assert_equal_runs(alone(*XOR), together(2, *XOR, "--data.batch_size=2"), 1e-3)


@pytest.mark.slow
def test_an_epoch_of_mnist_equals_that_of_one_process(alone, together, mnist):
    """The last batch is smaller, and does not divide by the number of processes."""
    epoch = (*MNIST, *mnist.options, *IN_DOUBLE, "--trainer.max_epochs=1", "--trainer.callbacks=null")
    assert_equal_runs(alone(*epoch, "--data.batch_size=513"), together(3, *epoch, "--data.batch_size=171"), 1e-9)


@pytest.mark.slow
def test_metrics_of_validation_and_test_do_not_depend_on_the_number_of_processes(cli, mnist, tmp_path):
    """The 10,000 test images do not divide by three."""
    for verb, stage, count in (("test", "test", mnist.num_test), ("validate", "val", mnist.val_size)):
        one = cli(verb, *MNIST, *mnist.options, "--trainer.accelerator=cpu").metrics
        place = f"--trainer.default_root_dir={verb}"
        launch(verb, *MNIST, *mnist.options, *processes(3), place, cwd=tmp_path)
        (several,) = rows(tmp_path / verb / "mnist/version_0")
        assert round(several[f"{stage}/acc"] * count) == round(one[f"{stage}/acc"] * count)
        assert several[f"{stage}/loss"] == pytest.approx(one[f"{stage}/loss"], rel=1e-6)


@pytest.mark.slow
def test_predict_writes_each_image_once_and_in_order(cli, tmp_path):
    """Seven images, three processes."""
    generator = torch.Generator().manual_seed(0)
    (tmp_path / "images").mkdir()
    for number in range(7):
        image = torch.randint(0, 256, (1, 28, 28), dtype=torch.uint8, generator=generator)
        write_png(image, str(tmp_path / f"images/{number}.png"))
    predict = ("predict", *MNIST, "--data.predict_path=images", "--data.batch_size=2")
    assert cli(*predict, "--trainer.accelerator=cpu", "--trainer.default_root_dir=one").code == 0
    launch(*predict, *processes(3), "--trainer.default_root_dir=three", cwd=tmp_path)
    one, three = (
        list(csv.DictReader((tmp_path / name / "mnist/version_0/predictions.csv").open())) for name in ("one", "three")
    )
    assert len(three) == 7
    assert [(row["file"], row["digit"]) for row in three] == [(row["file"], row["digit"]) for row in one]


@pytest.mark.slow
def test_a_run_resumed_by_several_processes_goes_on_where_it_was(tmp_path, together):
    short = (*XOR, *IN_DOUBLE, "--data.batch_size=2", "--data.passes=50", "--trainer.callbacks=null")
    whole = together(2, *short, "--trainer.max_epochs=4")
    first = together(2, *short, "--trainer.max_epochs=2", name="first")
    shutil.move(tmp_path / "first", tmp_path / "moved")
    run = tmp_path / "moved" / first.relative_to(tmp_path / "first")
    launch("fit", "--ckpt_path", run, "--trainer.max_epochs=4", cwd=tmp_path)
    assert weights(run).keys() == weights(whole).keys()
    for name, value in weights(whole).items():
        assert torch.equal(weights(run)[name], value), name


ORDERS = """
import torch
from lightning.pytorch import LightningModule, Trainer
from torch.utils.data import DataLoader, TensorDataset

from src.engine.data.adopt import adopt


class Notes(LightningModule):
    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.seen = []

    def train_dataloader(self):
        return DataLoader(TensorDataset(torch.arange(40)), 5, shuffle=True)

    def training_step(self, batch, batch_idx):
        self.seen += batch[0].tolist()
        return self.weight.sum()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)

    def on_train_end(self):
        shares = [None, None]
        torch.distributed.all_gather_object(shares, self.seen)
        assert sorted(shares[0] + shares[1]) == list(range(40)), shares


quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
trainer = Trainer(accelerator="cpu", devices=2, strategy="ddp", max_epochs=1, **quiet)
torch.manual_seed(trainer.global_rank)
module = Notes()
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
