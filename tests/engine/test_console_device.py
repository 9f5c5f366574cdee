"""One line at the start says what is trained, and where."""

from types import SimpleNamespace

import pytest
import torch

from src.engine.console import describe
from tests.conftest import SMALL


def trainer(kind, world_size=1):
    return SimpleNamespace(strategy=SimpleNamespace(root_device=torch.device(kind)), world_size=world_size, num_nodes=1)


def test_the_first_line_names_net_parameters_and_device(cli):
    done = cli(
        "fit",
        "--config",
        SMALL,
        "--trainer.max_epochs=1",
        "--data.passes=1",
        "--trainer.accelerator=cpu",
    )
    assert done.out.startswith("XorMLP, 17 parameters, on cpu (")
    assert done.out.count("parameters, on") == 1


@pytest.mark.parametrize(
    ("cuda", "mps", "why"),
    [
        (False, False, "no CUDA or MPS device is here"),
        (True, False, "chosen, though cuda is here"),
        (False, True, "chosen, though mps is here"),
    ],
)
def test_a_cpu_says_why_it_is_one(monkeypatch, cuda, mps, why):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
    monkeypatch.setattr(torch.mps, "is_available", lambda: mps, raising=False)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    assert describe(trainer("cpu")) == f"cpu (2 threads; {why})"


def test_cuda_is_named_with_its_model_and_number(monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "NVIDIA H200")
    assert describe(trainer("cuda", 2)) == "2 x cuda (NVIDIA H200)"
    assert describe(trainer("mps")) == "mps"
