import json
import subprocess
import sys

import pytest

from tests.conftest import PROJECT


def bench(*args):
    command = [sys.executable, "-m", "tests.benchmarks", *map(str, args)]
    return subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, timeout=300, check=False)


@pytest.mark.slow
def test_the_bench_measures_a_pair_prints_a_table_and_writes_every_figure(tmp_path):
    file = tmp_path / "bench.json"
    done = bench("--only", "c", "--pairs", "1", "--json", file)
    assert done.returncode == 0, done.stderr
    report = json.loads(file.read_text())
    assert set(report) == {"date", "machine", "versions", "load_at_end", "rows", "runs"}
    assert {"cpu", "cores", "load", "platform"} <= report["machine"].keys()
    assert {"python", "torch", "lightning"} <= report["versions"].keys()
    (row,) = report["rows"]
    assert (row["key"], row["bar"]) == ("c", 4.0)
    assert row["ratios"] == [row["ours"][0] / row["other"][0]] == [row["figure"]]
    assert row["verdict"] == ("met" if row["figure"] <= 4.0 else "missed")
    assert f"{row['figure']:.2f}" in done.stdout
    ours, other = report["runs"]
    assert (ours["run"], other["run"]) == ("ours.xor", "handwritten.xor")
    assert (row["ours"], row["other"]) == ([ours["seconds"]], [other["seconds"]])
    # What is compared does the same work.
    assert ours["steps"] == 2_000
    assert ours["test_acc"] == 1.0
    assert other["outputs"] == pytest.approx([0, 1, 1, 0], abs=0.02)


@pytest.mark.slow
def test_each_run_of_mnist_that_a_row_compares_follows_the_config(mnist, tmp_path):
    if not mnist.real:
        pytest.skip("needs the real MNIST under data/")
    done = bench("--only", "a,b", "--pairs", "1", "--root", mnist.root, "--json", tmp_path / "bench.json")
    assert done.returncode == 0, done.stderr
    runs = json.loads((tmp_path / "bench.json").read_text())["runs"]
    assert [run["run"] for run in runs] == ["ours.mnist", "handwritten.mnist", "ours.mnist", "usual.mnist"]
    assert all(run["test_acc"] > 0.9 for run in runs)


def test_a_row_that_does_not_exist_is_refused():
    done = bench("--only", "z")
    assert done.returncode == 2
    assert "--only z: known rows are a,acc,b" in done.stderr
