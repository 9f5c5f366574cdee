import re

import pytest
import torch
from torch import nn

from tests.conftest import CONFIGS, run_process

PRINTED = (1, *range(250, 2_001, 250))


def lesson() -> tuple[dict[int, float], list[torch.Tensor]]:
    """The lesson's XOR, written by hand: the losses at the printed steps and the final weights."""
    torch.manual_seed(42)
    x = torch.tensor([[0.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 1.0]])
    target = torch.tensor([[0.0], [1.0], [1.0], [0.0]])
    net = nn.Sequential(nn.Linear(2, 4), nn.ReLU(), nn.Linear(4, 1))
    optimizer = torch.optim.SGD(net.parameters(), lr=0.5)
    losses = {}
    for step in range(1, 2_001):
        loss = nn.functional.binary_cross_entropy_with_logits(net(x), target)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses[step] = loss.item()
    return {step: losses[step] for step in PRINTED}, list(net.parameters())


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The command as a user types it: its output and the run's folder."""
    folder = tmp_path_factory.mktemp("xor")
    done = run_process("fit", "--config", CONFIGS / "xor.yaml", cwd=folder)
    assert done.returncode == 0, done.stderr
    return done.stdout, folder / "runs/xor/version_0"


def test_xor_is_the_lessons_program_to_the_bit(run):
    out, folder = run
    checkpoint = torch.load(folder / "checkpoints/last.ckpt", weights_only=True)
    losses, weights = lesson()
    assert all(
        torch.equal(ours, theirs) for ours, theirs in zip(checkpoint["state_dict"].values(), weights, strict=True)
    )
    printed = {int(step): loss for step, loss in re.findall(r"step +(\d+)  loss ([\d.]+)", out)}
    assert printed == {step: f"{loss:.4f}" for step, loss in losses.items()}


def test_xor_learns_all_four_cases_within_two_percent(run):
    out, _ = run
    assert "step  2000  loss 0.0008  predictions [0, 1, 1, 0]" in out
    rows = re.findall(r"^([01]) ([01]) +([\d.]+) +([01])$", out, re.MULTILINE)
    assert [(a, b, truth) for a, b, _, truth in rows] == [
        ("0", "0", "0"),
        ("0", "1", "1"),
        ("1", "0", "1"),
        ("1", "1", "0"),
    ]
    assert all(abs(float(output) - int(truth)) < 0.02 for *_, output, truth in rows)
