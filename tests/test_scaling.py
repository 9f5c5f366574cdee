"""The predicted speed on many GPUs is what the stated model gives."""

import subprocess
import sys

import pytest

from tests.benchmarks.scaling import NETS, Net, efficiency, exchange_s, predict
from tests.conftest import PROJECT


def test_the_prediction_follows_the_model_of_the_ring():
    """7 billion gradients of 2 bytes, a step of a second: 8 GPUs send 2 * 7/8 of 14 GB each, at 200 GB/s."""
    net = Net("", 7e9, 2, 1.0)
    assert exchange_s(14e9, 8) == pytest.approx(2 * 7 / 8 * 14e9 / 200e9, rel=1e-3)
    assert efficiency(net, 8, hidden=0) == pytest.approx(1 / (1 + exchange_s(14e9, 8)))
    assert efficiency(net, 8, hidden=2 / 3) == 1.0
    assert efficiency(net, 512, hidden=0) < efficiency(net, 64, hidden=0) < efficiency(net, 8, hidden=0)
    command = [sys.executable, "-m", "tests.benchmarks.scaling", "--parameters", "7e9", "--step-ms", "1000"]
    done = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, timeout=60, check=True)
    assert "| 14,000.0 MB | 89% to 100% |" in done.stdout


def test_the_readme_shows_what_the_script_computes():
    assert predict(NETS) in (PROJECT / "README.md").read_text()
