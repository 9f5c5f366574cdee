"""`python -m src runs`: the table and the comparison show what the files of real runs hold."""

import csv
import io
import json
import os
import shutil
import signal
import subprocess
import sys
from contextlib import chdir
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import pytest
import yaml
from lightning.pytorch import Callback

from src.cli import main as fit_main
from src.tools.runs import main
from src.tools.runs.read import SILENT_S, flat, judge
from tests.conftest import PROJECT, SMALL


class Interrupt(Callback):
    """Ends a fit as Ctrl-C does, or as a bug."""

    def __init__(self, error: bool = False) -> None:
        self.error = error

    def on_train_batch_end(self, trainer, *rest):
        if trainer.global_step == 8:
            if self.error:
                raise RuntimeError("broke down")
            signal.raise_signal(signal.SIGINT)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Make real runs: three fits, a test, a prediction; one that failed, one that was stopped."""
    interrupt = f"--trainer.callbacks={__name__}.Interrupt"
    fits = ("fit", "--config", SMALL, "--trainer.max_epochs=4", "--data.passes=5")
    with chdir(tmp_path_factory.mktemp("made")):
        fit_main((*fits, "--note=the first"))
        fit_main((*fits, "--model.optimizer=torch.optim.Adam", "--model.optimizer.lr=0.05", "--model.net.hidden=8"))
        fit_main(("test", "--ckpt_path=runs/xor/version_0/checkpoints/best.ckpt"))
        fit_main(("predict", "--ckpt_path=runs/xor/version_0"))
        with pytest.raises(SystemExit):
            fit_main((*fits, "--experiment=ended", interrupt))
        with pytest.raises(RuntimeError):
            fit_main((*fits, "--experiment=ended", interrupt, "--trainer.callbacks.error=true"))
        fit_main((*fits, "--experiment=small", "--trainer.max_epochs=1"))
        return Path("runs").absolute()


@pytest.fixture
def root(made, tmp_path, monkeypatch):
    """Copy them, for a test to change."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "1500")
    return shutil.copytree(made, tmp_path / "runs")


@dataclass
class Said:
    out: str
    err: str
    code: object

    @property
    def rows(self):
        return json.loads(self.out)

    @property
    def names(self):
        return [row["run"] for row in self.rows]


@pytest.fixture
def runs(root, capsys):
    def run(*args):
        capsys.readouterr()
        code: object = 0
        try:
            main([str(arg) for arg in args])
        except SystemExit as stop:
            code = stop.code
        return Said(*capsys.readouterr(), code)

    return run


def refused(said):
    """Return the one line that the program ends with."""
    assert str(said.code).startswith("error: ")
    assert "\n" not in said.code + said.out
    return said.code


def change(folder, **values):
    """Change values of a summary."""
    path = folder / "summary.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


ALL = ["xor/version_0", "xor/version_1", "xor/version_2", "xor/version_3"]
ENDED = ["ended/version_0", "ended/version_1"]


def test_table_has_a_line_for_each_run_with_its_verb_and_end(runs):
    head, *lines = runs().out.splitlines()
    assert head.split()[:4] == ["run", "verb", "state", "started"]
    assert [line.split()[:3] for line in lines] == [
        *([name, verb, "finished"] for name, verb in zip(ALL, ("fit", "fit", "test", "predict"), strict=True)),
        *([ENDED[0], "fit", "stopped"], [ENDED[1], "fit", "failed"], ["small/version_0", "fit", "finished"]),
    ]
    assert "SIGINT" in lines[4]
    assert "RuntimeError: broke down" in lines[5]
    assert "max_epochs=4 reached" not in "".join(lines)
    assert "the first" in lines[0]


def test_figures_are_those_of_the_files_in_every_format(runs, root):
    (row,) = runs("xor/version_0", "--format=json").rows
    with (root / "xor/version_0/metrics.csv").open() as file:
        *epochs, last, tested = csv.DictReader(file)
    assert row["best"] == pytest.approx(min(float(each["val/loss"]) for each in [*epochs, last]), rel=1e-6)
    for name, line in {"val/loss": last, "val/acc": last, "train/loss": last, "test/loss": tested}.items():
        assert row[name] == pytest.approx(float(line[name]), rel=1e-6)
    assert (row["epochs"], row["steps"], row["parameters"]) == (4, 20, 17)
    assert (row["experiment"], row["version"], row["note"], row["monitor"]) == ("xor", 0, "the first", "val/loss")
    shown = runs("xor/version_0").out
    assert f"{row['best']:.4f}" in shown
    assert f"{row['test/acc']:.4f}" in shown
    table, objects = list(csv.DictReader(io.StringIO(runs("--format=csv").out))), runs("--format=json").rows
    assert len(table) == len(objects) == 7
    for line, each in zip(table, objects, strict=True):
        assert line == {name: "" if value is None else str(value) for name, value in each.items()}


@pytest.mark.parametrize(
    ("conditions", "names"),
    [
        (["verb = test"], ALL[2:3]),
        (["verb == fit", "parameters > 20"], ALL[1:2]),
        (["parameters<=17", "parameters>=17", "verb=fit"], ALL[:1]),
        (["note ~ FIRST"], [*ALL[:1], *ALL[2:]]),
        (["note != the first"], ALL[1:2]),
        (["note = 'the first'", "epochs = 4"], ALL[:1]),
        (["test/loss > 100"], []),
        (["started > 2020-01-01", "started < 2100-01-01"], ALL),
        (["model.net.hidden = 8"], ALL[1:2]),
        (["test_after_fit = true", "verb = fit"], ALL[:2]),
    ],
)
def test_where_keeps_the_runs_for_which_all_conditions_hold(conditions, names, runs):
    options = [word for condition in conditions for word in ("--where", condition)]
    said = runs("xor", "--format=json", *options)
    assert said.names == names
    assert ("none of 4 runs under runs matches" in said.err) == (not names)
    assert len(runs("xor", *options).out.splitlines()) == (len(names) + 1 if names else 0)


def test_a_text_is_unequal_to_the_number_of_another_run(runs, root):
    for name, precision in zip(ALL[:2], (32, "bf16-mixed"), strict=True):
        (root / name / "config.yaml").write_text(f"trainer: {{precision: {precision}}}")
    for sign, names in (("=", ALL[1:2]), ("!=", ALL[:1])):
        assert runs(*ALL[:2], "--format=json", "--where", f"trainer.precision {sign} bf16-mixed").names == names
    assert "trainer.precision holds numbers" in refused(runs(*ALL[:2], "--where", "trainer.precision > bf16-mixed"))


def test_columns_are_the_usual_ones_those_that_decide_and_those_asked_for(runs, root):
    usual = runs("xor/version_0", "xor/version_1").out.splitlines()[0].split()
    head = runs("xor", "--where", "train/loss < 100", "--sort=-model.optimizer.lr").out.splitlines()[0].split()
    assert head == [*usual, "train/loss", "model.optimizer.lr"]
    head, first, second, *_ = runs("xor", "--columns=steps,run,model.optimizer.lr").out.splitlines()
    assert head.split() == ["steps", "run", "model.optimizer.lr"]
    assert (first.split(), second.split()) == (["20", ALL[0], "0.5000"], ["20", ALL[1], "0.0500"])
    added = runs("xor/version_0", "--columns=+model.optimizer.lr,host").out.splitlines()[0].split()
    assert added[-2:] == ["model.optimizer.lr", "host"]
    assert "train/loss" not in runs("small").out
    change(root / "small/version_0", metrics={"train/loss": 0.25, "train/f1/cat": 0.5}, best=None, monitor=None)
    head, line = runs("small").out.splitlines()  # with neither test nor best value
    assert "train/loss" in head
    assert "cat" not in head
    assert "0.2500" in line


def test_sort_takes_several_columns_and_leaves_what_has_no_value_last(runs, root):
    by_loss = runs("xor", "--format=json", "--sort=-best").rows
    assert [row["best"] is None for row in by_loss] == [False, False, True, True]
    assert by_loss[0]["best"] > by_loss[1]["best"]
    assert runs("xor", "--format=json", "--sort=best").names[:2] == [by_loss[1]["run"], by_loss[0]["run"]]
    by_two = runs("--format=json", "--sort", "experiment,-version").names
    assert by_two == [*ENDED[::-1], "small/version_0", *ALL[::-1]]
    metrics = json.loads((root / "xor/version_1/summary.json").read_text())["metrics"] | {"test/acc": "NaN"}
    change(root / "xor/version_1", metrics=metrics, best="NaN")
    assert runs("xor", "--format=json", "--sort=-test/acc").rows[2]["test/acc"] == "NaN"
    assert runs("xor", "--format=json", "--where", "test/acc < 2").names == [ALL[0], ALL[2]]
    assert "nan" in runs("xor/version_1").out


@pytest.mark.parametrize("option", ["--columns=run,test/ac", "--where=test/ac > 0.9", "--sort=-test/ac"])
def test_unknown_column_lists_columns(option, runs):
    line = refused(runs("xor", option))
    assert line.startswith(f"error: {option.partition('=')[0]}: no column 'test/ac'; there are: run, experiment")
    assert "val/acc, val/loss" in line
    assert line.endswith("Did you mean test/acc?")
    assert "trainer." not in line


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["--where", "test/acc"], "is no condition"),
        (["--where", "> 3"], "is no condition"),
        (["--where", "test/acc > high"], "test/acc holds numbers, 'high' is none"),
        (["--where", "__import__('os').system('touch hacked') > 1"], "no column"),
        (["smal"], "no such run or experiment under runs. Did you mean small?"),
        (["lr[0]"], "no such run"),
        (["--root=there"], "--root there is no folder"),
        (["--colums=run"], "unrecognized arguments: --colums=run"),
        (["compare", "xor/version_11"], "no such run"),
    ],
)
def test_a_mistake_is_refused_in_one_line(args, words, runs, root):
    assert words in refused(runs(*args))
    assert not (root.parent / "hacked").exists()


def test_filters_name_experiments_and_runs(runs, root):
    assert runs("small", "ended", "--format=json").names == [*ENDED, "small/version_0"]
    assert runs("xor/version_1", "--format=json").names == ["xor/version_1"]
    assert runs("runs/xor/", "--format=json").names == ALL
    assert runs("*/version_0", "--format=json").names == ["xor/version_0", "ended/version_0", "small/version_0"]
    for name in ("lr[0.1]", "lr[0.2]", "lr0"):
        shutil.copytree(root / "small/version_0", root / name / "version_0")
    assert runs("lr[0*", "--format=json").names == ["lr[0.1]/version_0", "lr[0.2]/version_0"]
    assert len(runs("lr*", "--format=json").names) == 3


def test_runs_of_a_sweep_are_shown_on_demand(runs, root):
    for place in ("xor/sweep_0/version_0", "xor/repeat_12/version_3", "deep/er/version_0", "rows/sweep_0/version_0"):
        shutil.copytree(root / "small/version_0", root / place)
    said = runs("--format=json")
    assert len(said.rows) == 8
    assert "deep/er/version_0" in said.names
    assert "left out: 3 runs of sweeps and repeats (--all shows them)" in said.err
    assert len(runs("--all", "--format=json").rows) == 11
    assert runs("xor/sweep_0", "--format=json").names == ["xor/sweep_0/version_0"]
    assert runs("xor", "--format=json").names == ALL
    both = runs("xor", "deep", "xor/repeat_1*", "--format=json").names
    assert sorted(both) == ["deep/er/version_0", "xor/repeat_12/version_3", *ALL]
    assert runs("rows").code == 0
    assert runs("compare", "xor").out.split()[1] == "xor/version_3"
    assert runs("compare", "rows").out.split()[1] == "rows/sweep_0/version_0"


def test_a_narrow_terminal_gets_no_longer_lines_and_learns_what_is_missing(runs, monkeypatch):
    wide = runs().out
    monkeypatch.setenv("COLUMNS", "72")
    said = runs()
    assert max(map(len, wide.splitlines())) > 72 >= max(map(len, said.out.splitlines()))
    missing = said.err.removeprefix("no room for: ").strip().split(", ")
    heads = [
        {column.strip() for column in text.splitlines()[0].split("  ") if column.strip()} for text in (wide, said.out)
    ]
    assert heads[0] - heads[1] == set(missing)


def test_no_runs_yet_is_no_mistake(runs, tmp_path):
    (tmp_path / "empty").mkdir()
    said = runs("--root=empty", "--where=test/acc > 0.9", "--format=json")
    assert (said.rows, said.err) == ([], "no run under empty yet\n")


@pytest.mark.parametrize(
    "damage",
    [
        b"",
        bytes(range(256)),
        b'{"verb": "fit", "sta',
        b"[1, 2]",
        b"{}",
        b'{"metrics": ' + b"[" * 100_000,
        {"metrics": {"val/loss": "good"}},
        {"started": "yesterday"},
        {"processes": "two"},
        {"started": "0001-01-01T00:00:00+14:00"},
        lambda folder: (folder / "summary.json").unlink(),
        lambda folder: [(folder / "summary.json").unlink(), (folder / "summary.json").mkdir()],
        lambda folder: [shutil.rmtree(folder), folder.mkdir()],
    ],
)
def test_a_broken_folder_costs_one_line(damage, runs, root):
    folder = root / "xor/version_1"
    if isinstance(damage, bytes):
        (folder / "summary.json").write_bytes(damage)
    elif isinstance(damage, dict):
        change(folder, **damage)
    else:
        damage(folder)
    said = runs("xor", "--format=json", "--sort=run")
    assert said.names == ALL
    assert [row["state"] for row in said.rows] == ["finished", "broken", "finished", "finished"]
    reason = said.rows[1]["reason"]
    assert reason
    assert "\n" not in reason
    assert len(runs("xor").out.splitlines()) == 5
    assert "xor/version_1 is broken: " in refused(runs("compare", "xor/version_0", "xor/version_1"))


def test_a_broken_config_matters_only_for_options(runs, root):
    (root / "xor/version_1/config.yaml").write_text("model: [")
    assert {row["state"] for row in runs("xor", "--format=json").rows} == {"finished"}
    rows = runs("xor", "--format=json", "--columns=run,state,model.optimizer.lr", "--sort=run").rows
    assert [row["state"] for row in rows] == ["finished", "broken", "finished", "finished"]


@pytest.mark.parametrize(
    "name", ["grid_5²", "①", "٣", "two\nlines", "lr[0.1]", "a*b", "what?", "$0-$10", "-1", "9" * 200]
)
def test_an_odd_name_is_listed_and_can_be_named(name, runs, root):
    shutil.copytree(root / "small/version_0", root / name / "version_0")
    (root / name / "version_²").mkdir()
    (root / name / "version_9").write_text("a file")
    assert f"{name}/version_0" in runs("--format=json").names
    assert len(runs().out.splitlines()) == 1 + 8
    assert runs("--format=json", "--", name).names == [f"{name}/version_0"]
    assert "small/version_0" in runs("compare", "--", name, "small").out
    assert "val/loss" in runs("show", "--", name).out


def test_a_run_counts_once_whatever_links_lead_to_it(runs, root, tmp_path):
    shutil.copytree(root / "small/version_0", tmp_path / "disk/far/version_5")
    links = {"a_link": "xor", "xor/latest": "version_3", "xor/version_8": "version_3", "up": "..", "circle": root}
    links |= {"far": tmp_path / "disk/far", "disk": tmp_path / "disk", "itself": "itself", "nowhere": "not/there"}
    for name, target in links.items():
        (root / name).symlink_to(target)
    assert sorted(runs("--format=json").names) == sorted([*ALL, *ENDED, "small/version_0", "disk/far/version_5"])
    (tmp_path / "linked").symlink_to(root)
    assert len(runs("--root=linked", "--format=json").names) == 8


@pytest.mark.parametrize("error", [FileNotFoundError(2, "gone"), PermissionError(13, "Permission denied")])
def test_a_folder_that_is_gone_or_cannot_be_read_is_left_out(error, runs, root, monkeypatch):
    iterdir = Path.iterdir

    def failing(path):
        if path.name == "small":
            raise error
        return iterdir(path)

    monkeypatch.setattr(Path, "iterdir", failing)
    said = runs("--format=json")
    assert sorted(said.names) == sorted([*ALL, *ENDED])
    assert said.err == ("note: runs/small cannot be read: Permission denied\n" if error.errno == 13 else "")


def test_odd_values_are_shown(runs, root):
    odd = {"val/loss": "NaN", "val/acc": "-Infinity", "test/acc": None, "val/huge": 1e308}
    change(root / "xor/version_1", metrics=odd, seconds="NaN", best=None)
    config = {"long": [*range(100_000)], "more": {4: 0.5, None: {8: float("nan")}, True: []}}
    config |= {"when": datetime(2024, 1, 1, tzinfo=UTC).date(), "pairs": [[{1: float("inf")}]]}
    for name in ALL[:2]:
        (root / name / "config.yaml").write_text(yaml.safe_dump({"data": config}))
    (row,) = runs("xor/version_1", "--format=json").rows
    assert (row["val/loss"], row["val/acc"], row.get("test/acc")) == ("NaN", "-Infinity", None)
    names = "data.when,data.pairs,data.more.4,data.more.None.8"
    (row,) = runs("xor/version_1", "--format=json", f"--columns={names}").rows
    assert [*row.values()] == ["2024-01-01", [[{"1": "Infinity"}]], 0.5, "NaN"]
    for args in (["xor/version_1", "--columns=+data.long"], ["compare", "xor/version_1"]):
        assert max(map(len, runs(*args).out.splitlines())) < 2_000
    out = runs("compare", "xor/version_0", "xor/version_1").out
    assert "no option differs" in out
    assert "nan" in out


def section(out, title):
    """Return the lines of a part of the comparison, by their first word."""
    lines = out.split(f"{title}\n")[1].split("\n\n")[0].splitlines()
    return {line.split()[0]: line.split()[1:] for line in lines}


def test_a_comparison_has_the_options_that_differ_and_the_metrics(runs, root):
    out = runs("compare", "xor/version_0", "xor/version_1").out
    assert out.splitlines()[0].split() == ["run", "xor/version_0", "xor/version_1"]
    said = section(out, "options that differ")
    a, b = (flat(yaml.safe_load((root / name / "config.yaml").read_text())) for name in ALL[:2])
    assert said["model.optimizer"] == ["torch.optim.SGD", "torch.optim.Adam"]
    assert said["model.optimizer.lr"] == ["0.5", "0.05"]
    assert said["model.optimizer.momentum"] == ["0.0", "-"]
    absent = object()
    assert said.keys() == {name for name in a | b if a.get(name, absent) != b.get(name, absent)} - {"note"}
    rows = runs("xor", "--format=json", "--sort=run").rows[:2]
    metrics = section(out, "last metrics")
    for name in ("val/loss", "test/acc"):
        assert metrics[name] == [f"{row[name]:.4f}" for row in rows]
    shutil.copytree(root / "xor/version_0", root / "xor/version_10")
    assert "no option differs" in runs("compare", "xor/version_0", "xor").out
    assert section(runs("show", "runs/xor/version_0").out, "options")["model.optimizer.lr"] == ["0.5"]


def test_an_option_that_a_resume_changed_is_the_later_one(runs, root):
    run = root / "small/version_0"
    config, (entry,) = (yaml.safe_load((run / name).read_text()) for name in ("config.yaml", "record.yaml"))
    config["trainer"]["callbacks"] = [{"class_path": "my.First", "init_args": {"n": 1}}]
    (run / "config.yaml").write_text(yaml.safe_dump(config))
    second = {"class_path": "my.Second", "init_args": {"k": 2}}
    changed = {"trainer.max_epochs": 7, "model.init_args.optimizer.init_args.lr": 0.25}
    changed["trainer.callbacks"] = [second, second]
    (run / "record.yaml").write_text(yaml.safe_dump([entry, entry | {"changed": changed}]))
    assert section(runs("compare", "xor/version_0", "small").out, "options that differ") == {
        "trainer.max_epochs": ["4", "7"],
        "model.optimizer.lr": ["0.5", "0.25"],
        "trainer.callbacks": ["null", "-"],
        "trainer.callbacks.Second": ["-", "my.Second"],
        "trainer.callbacks.Second.k": ["-", "2"],
        "trainer.callbacks.Second1": ["-", "my.Second"],
        "trainer.callbacks.Second1.k": ["-", "2"],
    }


def test_neither_torch_nor_what_is_as_slow_is_imported(root):
    for args in ([], ["compare", "xor/version_0", "xor/version_1"]):
        command = [sys.executable, "-X", "importtime", "-m", "src", "runs", *args]
        env = os.environ | {"PYTHONPATH": str(PROJECT)}
        done = subprocess.run(command, cwd=root.parent, env=env, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        assert "xor/version_0" in done.stdout
        imported = {line.rpartition("|")[2].strip().split(".")[0] for line in done.stderr.splitlines()}
        assert {"src", "json"} <= imported
        assert not imported & {"torch", "lightning", "numpy", "matplotlib", "torchmetrics", "jsonargparse"}


def test_a_pipe_that_closes_early_is_no_error(root):
    for number in range(20, 400):
        (root / f"xor/version_{number}").mkdir()
    command = f"{sys.executable} -m src runs | head -c 10"
    env = os.environ | {"PYTHONPATH": str(PROJECT)}
    done = subprocess.run(command, shell=True, cwd=root.parent, env=env, capture_output=True, check=True)
    assert (len(done.stdout), done.stderr) == (10, b"")


@pytest.mark.parametrize(
    ("ago_s", "state"), [(SILENT_S - 1, "running"), (SILENT_S, "failed"), (-600, "running")], ids=str
)
def test_a_silent_run_is_taken_for_killed(ago_s, state, root):
    for path in (root / ALL[0]).rglob("*"):
        os.utime(path, (1e9, 1e9))
    found, reason = judge("gpu-7", root / ALL[0], 1e9 + ago_s)
    assert found == state
    assert ("taken for killed" in reason) == (state == "failed")
    assert "-" not in reason.removeprefix("on gpu-7")


def test_a_run_without_an_end_is_judged_in_the_table(runs, root):
    for name in ALL[:2]:
        change(root / name, state="running", host="gpu-7")
        for path in (root / name).rglob("*"):
            os.utime(path, (0, 0))
    (root / ALL[1] / "checkpoints/last.ckpt").touch()  # a long epoch, in which it writes a checkpoint
    assert [row["state"] for row in runs("xor", "--format=json", "--sort=run").rows[:2]] == ["failed", "running"]
