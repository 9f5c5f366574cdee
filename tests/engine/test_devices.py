"""Which device `auto` takes, what the first line says of it, and what a request that cannot be met is told."""

import pytest
import torch
from lightning.fabric.accelerators import MPSAccelerator
from lightning.pytorch import Trainer

from src.engine.run.console import describe
from tests.conftest import CONFIGS
from tests.processes import XOR, assert_equal_runs, launch


@pytest.fixture
def machine(monkeypatch):
    """Make believe that the machine has so many CUDA devices, and MPS."""

    def pretend(cuda=0, mps=False):
        monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda > 0)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: cuda)
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "NVIDIA H200")
        monkeypatch.setattr(torch.mps, "is_available", lambda: mps, raising=False)
        monkeypatch.setattr(MPSAccelerator, "is_available", staticmethod(lambda: mps))

    return pretend


def chosen(**options):
    """What the first line says with these options of the trainer."""
    return describe(Trainer(logger=False, enable_checkpointing=False, enable_progress_bar=False, **options))


def test_auto_takes_the_best_there_is_and_all_of_it(machine):
    machine()
    assert chosen().startswith("cpu (")
    assert "no CUDA or MPS device is here" in chosen()
    machine(cuda=1)
    assert chosen() == "cuda (NVIDIA H200)"
    machine(cuda=4)
    assert chosen() == "4 x cuda (NVIDIA H200)"
    machine(mps=True)
    assert chosen() == "mps"


def test_one_of_several_and_a_cpu_on_purpose_are_said(machine):
    machine(cuda=8)
    assert chosen(devices=2) == "2 x cuda (NVIDIA H200; 2 of the 8 that are here)"
    assert chosen(accelerator="cpu").endswith("chosen, though cuda is here)")


@pytest.mark.parametrize(
    ("here", "options", "said"),
    [
        (0, ("--trainer.accelerator=gpu", "--trainer.devices=8"), "no CUDA device"),
        (0, ("--trainer.accelerator=cuda", "--trainer.devices=8"), "no CUDA device"),
        (2, ("--trainer.accelerator=cuda", "--trainer.devices=8"), "2 CUDA devices (NVIDIA H200)"),
        (0, ("--trainer.accelerator=mps",), "no MPS device"),
    ],
)
def test_an_impossible_request_is_one_line_that_says_what_there_is(cli, machine, here, options, said):
    machine(cuda=here)
    done = cli("fit", *XOR, *options)
    assert done.code != 0
    (line,) = [line for line in done.err.splitlines() if line.startswith("error:")]
    assert "This machine has" in line
    assert said in line
    assert "Traceback" not in done.err


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")
def test_auto_trains_on_cuda_and_gives_what_a_cpu_gives(cli):
    on_cuda = cli("fit", *XOR, "--trainer.devices=1")
    assert on_cuda.code == 0, on_cuda.err
    assert "on cuda (" in on_cuda.out
    on_cpu = cli("fit", *XOR, "--trainer.accelerator=cpu")
    assert on_cuda.metrics["test/acc"] == on_cpu.metrics["test/acc"] == 1.0
    assert on_cuda.metrics["test/loss"] == pytest.approx(on_cpu.metrics["test/loss"], rel=1e-2)


@pytest.mark.slow
@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="there are no two CUDA devices")
def test_two_gpus_train_like_one(tmp_path):
    shared = ("fit", *XOR, "--trainer.accelerator=cuda")
    launch(*shared, "--trainer.devices=1", "--trainer.default_root_dir=one", cwd=tmp_path)
    ddp = ("--config", CONFIGS / "trainer/ddp.yaml", "--trainer.devices=2", "--data.batch_size=2")
    launch(*shared, *ddp, "--trainer.default_root_dir=two", cwd=tmp_path)
    assert_equal_runs(tmp_path / "one/xor/version_0", tmp_path / "two/xor/version_0", 1e-3)
