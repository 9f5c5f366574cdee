"""What is drawn after a resume is what would have been drawn: dropout, Python, NumPy, CUDA."""

import random

import numpy as np
import pytest
import torch

from src.engine.data.seeding import random_state, set_random_state
from tests.stopping import config, fit, resume, run_differences


@pytest.mark.parametrize(
    ("stop", "file"),
    [
        (("on_train_batch_end", 17), "last"),
        (("on_train_epoch_start", 2), "best"),
        pytest.param(("on_train_epoch_start", 2), "last", marks=pytest.mark.slow),
        pytest.param(("on_validation_end", 2), "best", marks=pytest.mark.slow),
    ],
)
def test_dropout_goes_on_with_the_same_bits(stop, file, tmp_path):
    whole = fit(tmp_path / "whole", config(dropout=0.5))
    run = fit(tmp_path / "stopped", config(dropout=0.5), stop)
    assert resume(run / f"checkpoints/{file}.ckpt") == 0
    assert run_differences(whole, run if file == "last" else run.parent / "version_1") == []


def test_without_the_states_it_would_not(tmp_path):
    whole = fit(tmp_path / "whole", config(dropout=0.5))
    run = fit(tmp_path / "stopped", config(dropout=0.5), ("on_train_batch_end", 17))
    path = run / "checkpoints/last.ckpt"
    checkpoint = torch.load(path, weights_only=True)
    del checkpoint["callbacks"]["Resume"]
    torch.save(checkpoint, path)
    assert resume(run) == 0
    assert run_differences(whole, run) != []


def draw() -> list[float]:
    drawn = [random.random(), random.gauss(0, 1), np.random.rand(), np.random.normal(), torch.rand(()).item()]
    return drawn + [torch.rand((), device=f"cuda:{k}").item() for k in range(torch.cuda.device_count())]


def test_every_generator_is_put_back(tmp_path):
    draw()
    torch.save(random_state(), tmp_path / "state.pt")
    expected = draw()
    set_random_state(torch.load(tmp_path / "state.pt", weights_only=True))
    assert draw() == expected


def test_the_state_of_mps_is_kept_and_put_back(monkeypatch):
    """With a device that is not here: its generator is a tensor."""
    generator = [torch.tensor([1, 2, 3], dtype=torch.uint8)]
    monkeypatch.setattr(torch.mps, "is_available", lambda: True)
    monkeypatch.setattr(torch.mps, "get_rng_state", lambda: generator[0])
    monkeypatch.setattr(torch.mps, "set_rng_state", lambda state: generator.__setitem__(0, state))
    state = random_state()
    generator[0] = torch.zeros(3, dtype=torch.uint8)
    set_random_state(state)
    assert generator[0].tolist() == [1, 2, 3]
