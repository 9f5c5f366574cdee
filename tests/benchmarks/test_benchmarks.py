import json
import subprocess
import sys

import pytest

from tests.benchmarks.child import run
from tests.conftest import PROJECT


def bench(*args):
    command = [sys.executable, "-m", "tests.benchmarks", *map(str, args)]
    return subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, timeout=300, check=False)


@pytest.mark.slow
def test_the_benchmarks_measure_a_pair_and_write_every_figure(tmp_path):
    done = bench("--only", "c", "--pairs", "1", "--json", tmp_path / "bench.json")
    assert done.returncode == 0, done.stderr
    report = json.loads((tmp_path / "bench.json").read_text())
    assert {"cpu", "cores", "load", "platform", "versions"} == report["machine"].keys()
    ((ours, other),) = report["rows"]["c"]
    assert f"{ours / other:.2f}" in done.stdout


@pytest.mark.slow
def test_the_compared_runs_do_the_same_work(mnist, tmp_path):
    assert run("handwritten.xor")["outputs"] == pytest.approx([0, 1, 1, 0], abs=0.02)
    ours = run("ours.xor", folder=str(tmp_path))
    assert (ours["steps"], ours["test_acc"]) == (2_000, 1.0)
    if not mnist.real:
        pytest.skip("needs the real MNIST under data/")
    assert run("handwritten.mnist", root=str(mnist.root), seed=0)["test_acc"] > 0.97
    assert run("usual.mnist", root=str(mnist.root), seed=0, folder=str(tmp_path))["test_acc"] > 0.9


def test_an_unknown_row_is_refused():
    done = bench("--only", "z")
    assert done.returncode == 2
    assert "--only z: known rows are a,b" in done.stderr
