import re

import torch
from torch import nn

from tests.conftest import CONFIGS, run_process


def lesson(num_steps: int = 2_000) -> tuple[dict[int, str], nn.Module]:
    """The lesson's XOR, written by hand: the losses at the printed steps and the net in the end."""
    torch.manual_seed(42)
    x = torch.tensor([[0.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 1.0]])
    target = torch.tensor([[0.0], [1.0], [1.0], [0.0]])
    net, losses = nn.Sequential(nn.Linear(2, 4), nn.ReLU(), nn.Linear(4, 1)), {}
    optimizer = torch.optim.SGD(net.parameters(), lr=0.5)
    for step in range(1, num_steps + 1):
        loss = nn.functional.binary_cross_entropy_with_logits(net(x), target)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step == 1 or step % 250 == 0:
            losses[step] = f"{loss.item():.4f}"
    return losses, net


def test_xor_equals_the_hand_written_loop_to_the_bit_and_learns_all_four_cases(tmp_path):
    done = run_process("fit", "--config", CONFIGS / "xor.yaml", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    checkpoint = torch.load(tmp_path / "runs/xor/version_0/checkpoints/last.ckpt", weights_only=True)
    losses, net = lesson()
    for ours, by_hand in zip(checkpoint["state_dict"].values(), net.parameters(), strict=True):
        assert torch.equal(ours, by_hand)
    printed = {int(step): loss for step, loss in re.findall(r"step +(\d+)  loss ([\d.]+)", done.stdout)}
    assert printed == losses
    assert "step  2000  loss 0.0008  predictions [0, 1, 1, 0]" in done.stdout
    rows = re.findall(r"^([01] [01]) +([\d.]+) +([01])$", done.stdout, re.MULTILINE)
    assert [(x, truth) for x, _, truth in rows] == [("0 0", "0"), ("0 1", "1"), ("1 0", "1"), ("1 1", "0")]
    assert all(abs(float(output) - int(truth)) < 0.02 for _, output, truth in rows)
