"""Run these with `pytest tests/benchmarks -m slow`; pytest leaves them out by default."""

import subprocess
import sys

import pytest

from tests.benchmarks.child import run
from tests.conftest import PROJECT


@pytest.mark.slow
def test_measures_a_pair():
    command = [sys.executable, "-m", "tests.benchmarks", "--only", "xor", "--pairs", "1"]
    done = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    assert "XOR fit / hand-written loop" in done.stdout


@pytest.mark.slow
def test_compared_runs_do_the_same_work(mnist, tmp_path):
    options = {"root": str(mnist.root), "seed": 0, "folder": str(tmp_path)}
    assert run("handwritten.xor", **options)["outputs"] == pytest.approx([0, 1, 1, 0], abs=0.02)
    assert run("ours.xor", **options)["steps"] == 2_000
    if mnist.real:
        ours, other = run("ours.mnist", **options), run("handwritten.mnist", **options)
        assert ours["steps"] == other["steps"]
        assert min(ours["test_acc"], other["test_acc"]) > 0.97
