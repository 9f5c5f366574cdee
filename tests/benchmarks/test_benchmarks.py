"""Run these with `pytest tests/benchmarks -m slow`; pytest leaves them out by default."""

import pytest

from tests.benchmarks.__main__ import ROWS, measure


@pytest.mark.slow
@pytest.mark.parametrize("row", ROWS)
def test_compared_runs_do_the_same_work(row, mnist):
    if not mnist.real:
        pytest.skip("needs the real MNIST under data/")
    _, *names = ROWS[row]
    ours, other = (measure(name, mnist.root) for name in names)
    for name in ("steps", "samples"):
        assert ours.get(name) == other.get(name)
    assert {"mnist": other.get("test_acc", 0) > 0.97 < ours.get("test_acc", 0)}.get(row, True)
    assert other.get("outputs", [0, 1, 1, 0]) == pytest.approx([0, 1, 1, 0], abs=0.02)
