"""`python -m src runs`: the table and the comparison show what the files of real runs hold."""

import csv
import functools
import io
import json
import os
import shutil
import signal
import subprocess
import sys
from contextlib import chdir
from datetime import UTC, datetime
from pathlib import Path

import pytest
import yaml

from src.cli import main as fit_main
from src.tools.runs.read import SILENT_S, flat, judge
from tests.conftest import PROJECT, SMALL
from tests.stopping import crash, run_main


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Make real runs: two fits, a test; one that was stopped, one that failed; and copy one as an experiment."""
    fits = ("fit", "--config", SMALL, "--trainer.max_epochs=2", "--data.passes=5")
    with chdir(tmp_path_factory.mktemp("made")):
        fit_main((*fits, "--note=the first"))
        fit_main((*fits, "--model.optimizer=torch.optim.Adam", "--model.optimizer.lr=0.05", "--model.net.hidden=8"))
        fit_main(("test", "--ckpt_path=runs/xor/version_0/checkpoints/best.ckpt"))
        for action in (lambda: signal.raise_signal(signal.SIGINT), crash):
            ended = [*fits, "--experiment=ended", "--trainer.callbacks=tests.stopping.Stop"]
            run_main(ended, ("on_train_batch_end", 1), action)
        shutil.copytree("runs/xor/version_1", "runs/small/version_0")
        return Path("runs").absolute()


@pytest.fixture
def root(made, tmp_path, monkeypatch):
    """Copy them, for a test to change."""
    monkeypatch.setenv("COLUMNS", "1500")
    return shutil.copytree(made, tmp_path / "runs")


@pytest.fixture
def runs(root, tool):
    return functools.partial(tool, "runs")


@pytest.fixture
def rows(runs):
    return lambda *args: json.loads(runs(*args, "--format=json").out)


@pytest.fixture
def names(rows):
    return lambda *args: [row["run"] for row in rows(*args)]


def change(folder, **values):
    """Change values of a summary."""
    path = folder / "summary.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


ALL = ["xor/version_0", "xor/version_1", "xor/version_2"]
ENDED = ["ended/version_0", "ended/version_1"]


def test_table_has_a_line_for_each_run_with_the_figures_of_its_files(runs, rows, root, monkeypatch):
    head, *lines = runs().out.splitlines()
    assert head.split()[:4] == ["run", "verb", "state", "started"]
    found = {line.split()[0]: " ".join(line.split()[1:3]) for line in lines}
    assert found == dict.fromkeys([*ALL[:2], "small/version_0"], "fit finished") | {
        ALL[2]: "test finished",
        ENDED[0]: "fit stopped",
        ENDED[1]: "fit failed",
    }
    assert all(word in "".join(lines) for word in ("SIGINT", "Stopped", "the first"))
    (row,) = rows("xor/version_0")
    with (root / "xor/version_0/metrics.csv").open() as file:
        first, last, tested = csv.DictReader(file)
    assert row["best"] == pytest.approx(min(float(each["val/loss"]) for each in (first, last)), rel=1e-6)
    for name, line in {"val/loss": last, "val/acc": last, "train/loss": last, "test/loss": tested}.items():
        assert row[name] == pytest.approx(float(line[name]), rel=1e-6)
    assert (row["epochs"], row["steps"], row["parameters"]) == (2, 10, 17)
    assert (row["experiment"], row["version"], row["note"], row["monitor"]) == ("xor", 0, "the first", "val/loss")
    table = csv.DictReader(io.StringIO(runs("--format=csv").out))
    for line, each in zip(table, rows(), strict=True):
        assert line == {name: "" if value is None else str(value) for name, value in each.items()}
    monkeypatch.setenv("COLUMNS", "72")
    assert max(map(len, lines)) > 72 == max(map(len, runs().out.splitlines()))


def test_where_sort_and_filters_choose_the_runs(runs, names, root):
    def where(*conditions):
        return names("xor", *(word for condition in conditions for word in ("--where", condition)))

    assert where("parameters<=17", "parameters>=17", "verb=fit") == ALL[:1]
    assert where("parameters>17") == ALL[1:2]
    assert where("note ~ FIRST") == [ALL[0], ALL[2]]
    assert where("note = 'the first'", "epochs = 2") == ALL[:1]
    assert where("started > 2020-01-01", "model.net.hidden = 8") == ALL[1:2]
    assert "none of 3 runs under runs matches" in runs("xor", "--where", "test/loss > 100").err
    assert names("--sort", "experiment,-version") == [*ENDED[::-1], "small/version_0", *ALL[::-1]]
    assert names("xor", "--sort=-best")[2] == ALL[2]  # without a value
    assert names("xor", "--sort=best")[:2] == names("xor", "--sort=-best")[1::-1]
    metrics = json.loads((root / "xor/version_1/summary.json").read_text())["metrics"] | {"test/acc": "NaN"}
    change(root / "xor/version_1", metrics=metrics, best="NaN")
    assert names("xor", "--sort=-test/acc")[2] == ALL[1]
    assert where("test/acc < 2") == [ALL[0], ALL[2]]
    assert names("small", "runs/ended/", "--sort=run") == [*ENDED, "small/version_0"]
    for place in ("lr[0.1]", "xor/sweep_0", "xor/repeat_12", "rows/sweep_0"):
        shutil.copytree(root / "small/version_0", root / place / "version_0")
    assert names("lr[0*") == ["lr[0.1]/version_0"]
    assert "left out: 3 runs of sweeps and repeats (--all shows them)" in runs().err
    assert (len(names()), len(names("--all"))) == (7, 10)
    assert names("xor/sweep_0") == ["xor/sweep_0/version_0"]
    assert names("xor") == ALL
    assert runs("compare", "xor").out.split()[1] == ALL[2]
    assert runs("compare", "rows").out.split()[1] == "rows/sweep_0/version_0"


def test_columns_are_the_usual_ones_those_that_decide_and_those_asked_for(runs):
    usual = runs("xor/version_0", "xor/version_1").out.splitlines()[0].split()
    head = runs("xor", "--where", "train/loss < 100", "--sort=-model.optimizer.lr").out.splitlines()[0].split()
    assert head == [*usual[:3], "train/loss", "model.optimizer.lr", *usual[3:]]
    head, first, second, *_ = runs("xor", "--columns=steps,run,model.optimizer.lr").out.splitlines()
    assert head.split() == ["steps", "run", "model.optimizer.lr"]
    assert (first.split(), second.split()) == (["10", ALL[0], "0.5000"], ["10", ALL[1], "0.0500"])
    assert runs("xor/version_0", "--columns=+host").out.split()[3] == "host"


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["--columns=run,test/ac"], ["no column 'test/ac'", "val/acc, val/loss", "Did you mean test/acc?"]),
        (["--where", "test/acc"], ["--where"]),
        (["--where", "test/acc > good"], ["test/acc holds numbers"]),
        (["smal"], ["smal:", "Did you mean small?"]),
        (["--root=there"], ["--root there is no folder"]),
        (["compare", "xor/version_11"], ["xor/version_11: no such run"]),
    ],
)
def test_mistake_is_one_line(args, words, runs):
    said = runs(*args)
    (line,) = (said.out + said.err).splitlines()
    assert line.startswith("error: ")
    assert all(word in line for word in words)


@pytest.mark.parametrize("text", ['{"metrics": ' + "[" * 100_000, None])
def test_broken_folder_costs_one_line(text, runs, rows, root):
    path = root / "xor/version_1/summary.json"
    path.unlink() if text is None else path.write_text(text)
    (root / "xor/version_0/config.yaml").write_text("model: [")  # matters for its options alone
    found = rows("xor", "--sort=run")
    assert [row["state"] for row in found] == ["finished", "broken", "finished"]
    assert found[1]["reason"]
    assert len(runs("xor").out.splitlines()) == 4
    assert "xor/version_1 is broken: " in runs("compare", "xor/version_2", "xor/version_1").err
    states = [row["state"] for row in rows("xor", "--sort=run", "--columns=state,model.net.hidden")]
    assert states == ["broken", "broken", "finished"]


def test_odd_name_and_a_link_are_listed_once_and_can_be_named(runs, names, root, tmp_path):
    odd = [f"{name}/version_0" for name in ("two\nlines", "a*b", "-1")]
    for name in odd:
        shutil.copytree(root / "small/version_0", root / name)
    shutil.copytree(root / "small/version_0", tmp_path / "disk/far/version_5")
    for name, target in {"a_link": "xor", "up": "..", "disk": tmp_path / "disk", "nowhere": "not/there"}.items():
        (root / name).symlink_to(target)
    every = [*ALL, *ENDED, *odd, "small/version_0", "disk/far/version_5"]
    assert sorted(names()) == sorted(every)
    assert len(runs().out.splitlines()) == 1 + len(every)
    assert "val/loss" in runs("show", "--", "-1").out


def test_odd_values_are_shown(rows, root):
    change(root / "xor/version_1", metrics={"val/loss": "NaN", "val/acc": "-Infinity"}, best=None)
    config = {"more": {4: 0.5, None: {8: float("nan")}}, "when": datetime(2024, 1, 1, tzinfo=UTC).date()}
    (root / "xor/version_1/config.yaml").write_text(yaml.safe_dump({"data": config}))
    (row,) = rows("xor/version_1", "--columns=val/loss,val/acc,data.when,data.more.4,data.more.None.8")
    assert [*row.values()] == ["NaN", "-Infinity", "2024-01-01", 0.5, "NaN"]


def section(out, title):
    """Return the lines of a part of the comparison, by their first word."""
    lines = out.split(f"{title}\n")[1].split("\n\n")[0].splitlines()
    return {line.split()[0]: line.split()[1:] for line in lines}


def test_comparison_has_the_options_that_differ_and_the_metrics(runs, rows, root):
    out = runs("compare", "xor/version_0", "xor/version_1").out
    assert out.splitlines()[0].split() == ["run", "xor/version_0", "xor/version_1"]
    found = section(out, "options that differ")
    a, b = (flat(yaml.safe_load((root / name / "config.yaml").read_text())) for name in ALL[:2])
    assert found["model.optimizer"] == ["torch.optim.SGD", "torch.optim.Adam"]
    assert found["model.optimizer.momentum"] == ["0.0", "-"]
    absent = object()
    assert found.keys() == {name for name in a | b if a.get(name, absent) != b.get(name, absent)} - {"note"}
    losses = [f"{row['val/loss']:.4f}" for row in rows("xor", "--sort=run")[:2]]
    assert section(out, "last metrics")["val/loss"] == losses
    shutil.copytree(root / "xor/version_0", root / "xor/version_10")
    assert "no option differs" in runs("compare", "xor/version_0", "xor").out
    assert section(runs("show", "runs/xor/version_0").out, "options")["model.optimizer.lr"] == ["0.5"]
    (entry,) = yaml.safe_load((root / "small/version_0/record.yaml").read_text())
    b["model.optimizer.lr"] = 0.25
    (root / "small/version_0/record.yaml").write_text(yaml.safe_dump([entry, entry | {"config": b}]))  # a resume's
    found = section(runs("compare", "xor/version_1", "small").out, "options that differ")
    assert found == {"model.optimizer.lr": ["0.05", "0.25"]}


def test_a_thousand_runs_take_no_torch_and_a_pipe_may_close(root):
    for number in range(20, 1_020):
        shutil.copytree(root / "small/version_0", root / f"xor/version_{number}", copy_function=os.link)
    env = os.environ | {"PYTHONPATH": str(PROJECT)}
    command = f"{sys.executable} -X importtime -m src runs 2> imported | head -c 10"
    done = subprocess.run(command, shell=True, cwd=root.parent, env=env, capture_output=True, check=True)
    assert done.stdout == b"run       "
    lines = (root.parent / "imported").read_text().splitlines()
    assert [line for line in lines if not line.startswith("import time:")] == []
    imported = {line.rpartition("|")[2].strip().split(".")[0] for line in lines}
    assert {"src", "json"} <= imported
    assert not imported & {"torch", "lightning", "numpy", "matplotlib", "torchmetrics", "jsonargparse"}


def test_silent_run_is_taken_for_killed(rows, root):
    for name in ALL[:2]:
        change(root / name, state="running", host="gpu-7")
        for path in (root / name).rglob("*"):
            os.utime(path, (1e9, 1e9))
    for ago_s, state in ((SILENT_S - 1, "running"), (SILENT_S, "failed"), (-600, "running")):
        assert judge("gpu-7", root / ALL[0], 1e9 + ago_s)[0] == state
    (root / ALL[1] / "checkpoints/last.ckpt").touch()  # a long epoch, in which it writes a checkpoint
    found = rows("xor", "--sort=run")
    assert [row["state"] for row in found[:2]] == ["failed", "running"]
    assert "taken for killed" in found[0]["reason"]
