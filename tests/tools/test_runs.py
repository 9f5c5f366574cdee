"""`python -m src runs`: the table, the comparison and the single run say what the files of real runs say."""

import csv
import io
import json
import os
import shutil
import signal
import subprocess
import sys
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import pytest
import torch
import yaml
from lightning.pytorch import Callback

from src.cli import main as fit_main
from src.tools.runs import main
from src.tools.runs.alive import SILENT_S, judge
from src.tools.runs.options import flat
from tests.conftest import PROJECT, SMALL

SHORT = ("--trainer.max_epochs=4", "--data.passes=5")


class Interrupt(Callback):
    """As Ctrl-C does, or as a bug."""

    def __init__(self, error: bool = False) -> None:
        self.error = error

    def on_train_batch_end(self, trainer, *rest):
        if trainer.global_step == 8:
            if self.error:
                raise RuntimeError("broke down")
            signal.raise_signal(signal.SIGINT)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Real runs: three fits, a test, a prediction; one that failed, one that was stopped."""
    folder = tmp_path_factory.mktemp("made")
    interrupt = f"--trainer.callbacks={__name__}.Interrupt"
    fits = ("fit", "--config", SMALL, *SHORT)
    commands = [
        (*fits, "--note=the first"),
        (*fits, "--model.optimizer=torch.optim.Adam", "--model.optimizer.lr=0.05", "--model.net.hidden=8"),
        ("test", "--ckpt_path=runs/xor/version_0/checkpoints/best.ckpt"),
        ("predict", "--ckpt_path=runs/xor/version_0"),
        (*fits, "--experiment=ended", interrupt),
        (*fits, "--experiment=ended", interrupt, "--trainer.callbacks.error=true"),
        (*fits, "--experiment=small", "--trainer.max_epochs=1"),
    ]
    before, threads = Path.cwd(), torch.get_num_threads()
    os.chdir(folder)
    try:
        for command in commands:
            try:
                fit_main(command)
            except (SystemExit, RuntimeError):
                assert f"{__name__}.Interrupt" in "".join(map(str, command))
    finally:
        os.chdir(before)
        torch.set_num_threads(threads)
    return folder / "runs"


@pytest.fixture
def root(made, tmp_path, monkeypatch):
    """The same, for a test to change."""
    shutil.copytree(made, tmp_path / "runs")
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("COLUMNS", raising=False)
    return tmp_path / "runs"


@dataclass
class Said:
    out: str
    err: str
    code: object = 0

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
    """The one line that it ends with."""
    assert isinstance(said.code, str)
    assert said.code.startswith("error: ")
    assert "\n" not in said.code
    assert said.out == ""
    return said.code


def change(folder, **values):
    """Of a summary."""
    path = folder / "summary.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


ALL = ["xor/version_0", "xor/version_1", "xor/version_2", "xor/version_3"]


def test_the_table_has_a_line_for_each_run_and_tells_the_verbs_and_the_ends_apart(runs):
    said = runs()
    head, *lines = said.out.splitlines()
    assert head.split()[:4] == ["run", "verb", "state", "started"]
    words = [line.split()[:3] for line in lines]
    assert words == [
        ["xor/version_0", "fit", "finished"],
        ["xor/version_1", "fit", "finished"],
        ["xor/version_2", "test", "finished"],
        ["xor/version_3", "predict", "finished"],
        ["ended/version_0", "fit", "stopped"],
        ["ended/version_1", "fit", "failed"],
        ["small/version_0", "fit", "finished"],
    ]
    assert "SIGINT" in lines[4]
    assert "RuntimeError: broke down" in lines[5]
    assert "max_epochs=4 reached" not in said.out
    assert "the first" in lines[0]


def test_its_figures_are_those_of_the_files(runs, root):
    (row,) = runs("xor/version_0", "--format=json").rows
    with (root / "xor/version_0/metrics.csv").open() as file:
        *epochs, last, tested = csv.DictReader(file)
    losses = [float(each["val/loss"]) for each in [*epochs, last]]
    assert row["best"] == pytest.approx(min(losses), rel=1e-6)
    assert row["monitor"] == "val/loss"
    for name in ("val/loss", "val/acc", "train/loss"):
        assert row[name] == pytest.approx(float(last[name]), rel=1e-6)
    for name in ("test/loss", "test/acc"):
        assert row[name] == pytest.approx(float(tested[name]), rel=1e-6)
    assert (row["epochs"], row["steps"], row["parameters"]) == (4, 20, 17)
    assert (row["experiment"], row["version"], row["note"]) == ("xor", 0, "the first")
    shown = runs("xor/version_0").out
    assert f"{row['best']:.4f}" in shown
    assert f"{row['test/acc']:.4f}" in shown


def test_csv_says_the_same_as_json(runs):
    table = list(csv.DictReader(io.StringIO(runs("--format=csv").out)))
    objects = runs("--format=json").rows
    assert len(table) == len(objects) == 7
    for row, each in zip(table, objects, strict=True):
        assert row == {name: "" if value is None else str(value) for name, value in each.items()}


@pytest.mark.parametrize(
    ("conditions", "names"),
    [
        (["verb = test"], ALL[2:3]),
        (["verb == fit", "parameters > 20"], ALL[1:2]),
        (["parameters<=17", "parameters>=17", "verb=fit"], ALL[:1]),
        (["note ~ FIRST"], [*ALL[:1], *ALL[2:]]),
        (["note != the first"], ALL[1:2]),
        (["note = 'the first'", "epochs = 4"], ALL[:1]),
        (["test/loss < 100"], ALL[:3]),
        (["test/loss > 100"], []),
        (["steps != 20"], ALL[2:]),
        (["started > 2020-01-01", "started < 2100-01-01"], ALL),
        (["model.net.hidden = 8"], ALL[1:2]),
        (["model.optimizer ~ adam"], ALL[1:2]),
        (["test_after_fit = false", "verb = fit"], []),
        (["test_after_fit = true", "verb = fit"], ALL[:2]),
    ],
)
def test_where_keeps_the_runs_for_which_all_conditions_hold(conditions, names, runs):
    options = [word for condition in conditions for word in ("--where", condition)]
    said = runs("xor", "--format=json", *options)
    assert said.names == names
    assert ("of 4 runs under runs none fits" in said.err) == (not names)
    assert len(runs("xor", *options).out.splitlines()) == (len(names) + 1 if names else 0)


def test_a_text_is_unequal_to_the_number_of_another_run(runs, root):
    config = yaml.safe_load((root / "xor/version_1/config.yaml").read_text())
    for name, precision in zip(ALL[:2], (32, "bf16-mixed"), strict=True):
        config["trainer"]["precision"] = precision
        (root / name / "config.yaml").write_text(yaml.safe_dump(config))
    for sign, names in (("=", ALL[1:2]), ("!=", ALL[:1])):
        said = runs(*ALL[:2], "--format=json", "--where", f"trainer.precision {sign} bf16-mixed")
        assert said.names == names
    assert "trainer.precision holds numbers" in refused(runs(*ALL[:2], "--where", "trainer.precision > bf16-mixed"))


def test_columns_that_decide_are_shown_beside_the_usual_ones(runs):
    head = runs("xor", "--where", "train/loss < 100", "--sort=-model.optimizer.lr").out.splitlines()[0].split()
    assert head == [*runs("xor/version_0", "xor/version_1").out.splitlines()[0].split(), *head[-2:]]
    assert head[-2:] == ["train/loss", "model.optimizer.lr"]
    said = runs("xor", "--where", "train/loss < 100", "--columns=run")
    assert said.out.splitlines()[0] == "run"


def test_a_run_without_test_and_validation_shows_what_else_it_measures(runs, root):
    assert "train/loss" not in runs("small").out
    change(root / "small/version_0", metrics={"train/loss": 0.25, "train/f1/cat": 0.5}, best=None, monitor=None)
    head, line = runs("small").out.splitlines()
    assert "train/loss" in head
    assert "cat" not in head
    assert "0.2500" in line


def test_sort_takes_several_columns_and_leaves_what_has_no_value_last(runs):
    by_loss = runs("xor", "--format=json", "--sort", "-best").rows
    assert [row["best"] is None for row in by_loss] == [False, False, True, True]
    assert by_loss[0]["best"] > by_loss[1]["best"]
    assert runs("xor", "--format=json", "--sort=best").names[:2] == [by_loss[1]["run"], by_loss[0]["run"]]
    assert runs("--format=json", "--sort", "experiment,-version").names == [
        *("ended/version_1", "ended/version_0", "small/version_0"),
        *ALL[::-1],
    ]


def test_what_is_no_number_is_no_best_and_no_match(runs, root):
    metrics = json.loads((root / "xor/version_1/summary.json").read_text())["metrics"] | {"test/acc": "NaN"}
    change(root / "xor/version_1", metrics=metrics, best="NaN")
    said = runs("xor", "--format=json", "--sort=-test/acc")
    assert said.rows[2]["test/acc"] == "NaN"
    assert runs("xor", "--format=json", "--where", "test/acc < 2").names == [ALL[0], ALL[2]]
    assert "nan" in runs("xor/version_1").out


def test_columns_are_those_that_were_asked_for_in_their_order(runs):
    said = runs("xor", "--columns=steps,run,model.optimizer.lr")
    head, first, second, *_ = (line.split() for line in said.out.splitlines())
    assert head == ["steps", "run", "model.optimizer.lr"]
    assert first == ["20", "xor/version_0", "0.5000"]
    assert second == ["20", "xor/version_1", "0.0500"]
    usual, added = (runs("xor", *more).out.splitlines()[0] for more in ([], ["--columns=+model.optimizer.lr,host"]))
    assert added.split() == [*usual.split(), "model.optimizer.lr", "host"]


@pytest.mark.parametrize("option", ["--columns=run,test/ac", "--where=test/ac > 0.9", "--sort=-test/ac"])
def test_a_column_that_is_none_is_told_with_all_that_there_are(option, runs):
    line = refused(runs("xor", option))
    assert line.startswith(
        f"error: {option.partition('=')[0]}: no column 'test/ac'; there are: run, experiment, version"
    )
    assert "val/acc, val/loss" in line
    assert line.endswith("Did you mean test/acc?")
    assert "trainer." not in line


@pytest.mark.parametrize(
    ("condition", "words"),
    [
        ("test/acc", "is no condition"),
        ("> 3", "is no condition"),
        ("test/acc > high", "test/acc holds numbers, 'high' is none"),
        ("__import__('os').system('touch hacked') > 1", "no column"),
    ],
)
def test_a_condition_that_is_none_is_told(condition, words, runs, root):
    assert words in refused(runs("--where", condition))
    assert not (root.parent / "hacked").exists()


def test_filters_name_experiments_and_runs(runs):
    assert runs("small", "ended", "--format=json").names == ["ended/version_0", "ended/version_1", "small/version_0"]
    assert runs("xor/version_1", "--format=json").names == ["xor/version_1"]
    assert runs("*/version_0", "--format=json").names == ["xor/version_0", "ended/version_0", "small/version_0"]
    assert refused(runs("smal")).endswith("there are: ended, small, xor. Did you mean small?")


def test_the_runs_of_a_sweep_are_shown_when_they_are_asked_for(runs, root):
    for place in ("xor/sweep_0/version_0", "xor/repeat_12/version_3", "deep/er/version_0"):
        shutil.copytree(root / "small/version_0", root / place)
    said = runs("--format=json")
    assert len(said.rows) == 8
    assert "deep/er/version_0" in said.names
    assert "left out: xor/repeat_12, xor/sweep_0 (--all shows them)" in said.err
    assert len(runs("--all", "--format=json").rows) == 10
    assert runs("xor/sweep_0", "--format=json").names == ["xor/sweep_0/version_0"]
    assert runs("xor", "--format=json").names == ALL
    assert len(runs("xor", "--all", "--format=json").names) == 6
    both = runs("small", "xor/repeat_12", "--format=json").names
    assert sorted(both) == ["small/version_0", "xor/repeat_12/version_3"]
    both = runs("xor", "deep", "xor/repeat_1*", "--format=json").names
    assert sorted(both) == ["deep/er/version_0", "xor/repeat_12/version_3", *ALL]


def test_an_experiment_that_has_only_a_sweep_is_no_mistake(runs, root):
    shutil.copytree(root / "small/version_0", root / "rows/sweep_0/version_0")
    said = runs("rows")
    assert said.code == 0
    assert said.err == "no run under runs but what is left out\nleft out: rows/sweep_0 (--all shows them)\n"
    assert "rows/sweep_0" in refused(runs("rows/version_0"))


def test_a_narrow_terminal_gets_no_longer_lines_and_is_told_what_is_missing(runs, monkeypatch):
    wide = runs().out
    monkeypatch.setenv("COLUMNS", "72")
    said = runs()
    assert max(map(len, wide.splitlines())) > 72
    assert max(map(len, said.out.splitlines())) <= 72
    missing = said.err.removeprefix("no room for: ").strip().split(", ")
    heads = [text.splitlines()[0].split("  ") for text in (wide, said.out)]
    all_columns, shown = ({column.strip() for column in head if column.strip()} for head in heads)
    assert shown < all_columns
    assert sorted([*shown, *missing]) == sorted(all_columns)
    for line in said.out.splitlines()[1:]:
        assert line.split()[1] in ("fit", "test", "predict")


def test_no_runs_yet_is_no_mistake_and_no_folder_is_one(runs, tmp_path):
    (tmp_path / "empty").mkdir()
    assert runs("--root=empty").err == "no run under empty yet\n"
    assert runs("--root=empty", "--where=test/acc > 0.9", "--format=json").rows == []
    assert "--root there is no folder" in refused(runs("--root=there"))


def broken_json(folder):
    (folder / "summary.json").write_text((folder / "summary.json").read_text()[:100])


def emptied(folder):
    (folder / "summary.json").write_bytes(b"")


def binary(folder):
    (folder / "summary.json").write_bytes(bytes(range(256)))


def a_list(folder):
    (folder / "summary.json").write_text("[1, 2]")


def lacking(folder):
    (folder / "summary.json").write_text("{}")


def wrong_kinds(folder):
    change(folder, metrics={"val/loss": "good"})


def no_time(folder):
    change(folder, started="yesterday")


def a_text_for_a_number(folder):
    change(folder, processes="two")


def a_folder(folder):
    (folder / "summary.json").unlink()
    (folder / "summary.json").mkdir()


def only_a_config(folder):
    for path in folder.iterdir():
        if path.is_file() and path.name != "config.yaml":
            path.unlink()


def nothing(folder):
    shutil.rmtree(folder)
    folder.mkdir()


def deep_json(folder):
    (folder / "summary.json").write_text('{"metrics": ' + "[" * 100_000)


def a_time_that_no_clock_shows(folder):
    change(folder, started="0001-01-01T00:00:00+14:00")


DAMAGE = [
    broken_json,
    emptied,
    binary,
    a_list,
    lacking,
    wrong_kinds,
    no_time,
    a_folder,
    only_a_config,
    nothing,
    a_text_for_a_number,
    deep_json,
    a_time_that_no_clock_shows,
]


@pytest.mark.parametrize("damage", DAMAGE, ids=lambda damage: damage.__name__)
def test_a_broken_folder_is_listed_as_such_and_the_others_as_before(damage, runs, root):
    damage(root / "xor/version_1")
    said = runs("xor", "--format=json")
    assert said.code == 0
    assert sorted(said.names) == ALL
    (row,) = (row for row in said.rows if row["run"] == "xor/version_1")
    assert row["state"] == "broken"
    assert row["reason"]
    assert "\n" not in row["reason"]
    assert [row["state"] for row in said.rows if row["run"] != "xor/version_1"] == ["finished"] * 3
    assert "broken" in runs("xor").out
    assert runs("show", "xor/version_1").code == 1
    assert "xor/version_1 is broken: " in refused(runs("compare", "xor/version_0", "xor/version_1"))


def test_a_config_that_is_broken_matters_where_options_are_asked_for(runs, root):
    (root / "xor/version_1/config.yaml").write_text("model: [")
    assert {row["state"] for row in runs("xor", "--format=json").rows} == {"finished"}
    rows = runs("xor", "--format=json", "--columns=run,state,model.optimizer.lr").rows
    assert [row["state"] for row in rows] == ["finished", "broken", "finished", "finished"]


def test_what_is_no_run_is_not_listed(runs, root):
    (root / "xor/version_9").write_text("a file")
    (root / "xor/version_x").mkdir()
    (root / "xor/version_1/version_0").mkdir()
    (root / "circle").symlink_to(root)
    assert len(runs("--format=json").rows) == 7


ODD = ["grid_5²", "①", "x2₃", "٣", "two\nlines", "lr[0.1]", "50%", "a*b", "what?", "$0-$10", "-1", "~nobody"]


@pytest.mark.parametrize("name", [*ODD, "bytes-\udcff", "9" * 200])
def test_an_odd_name_is_listed_and_can_be_named(name, runs, root):
    try:
        shutil.copytree(root / "small/version_0", root / name / "version_0")
    except OSError as error:
        pytest.skip(f"no such name here: {error}")
    (root / name / "version_²").mkdir()
    assert f"{name}/version_0" in runs("--format=json").names
    assert len(runs().out.splitlines()) == 1 + 8
    assert runs("--format=json", "--", name).names == [f"{name}/version_0"]
    assert "val/loss" in runs("show", "--", name).out
    assert "small/version_0" in runs("compare", "--", name, "small").out


def test_a_star_is_wild_and_a_bracket_is_a_bracket(runs, root):
    for name in ("lr[0.1]", "lr[0.2]", "lr0"):
        shutil.copytree(root / "small/version_0", root / name / "version_0")
    assert runs("lr[0*", "--format=json").names == ["lr[0.1]/version_0", "lr[0.2]/version_0"]
    assert len(runs("lr*", "--format=json").names) == 3
    assert "no such run" in refused(runs("lr[0]"))


def test_a_run_counts_once_whatever_links_lead_to_it(runs, root, tmp_path):
    shutil.copytree(root / "small/version_0", tmp_path / "disk/far/version_5")
    (tmp_path / "back").mkdir()
    for name, target in {
        "a_link": "xor",
        "xor/latest": "version_3",
        "xor/version_8": "version_3",
        "up": "..",
        "far": tmp_path / "disk/far",
        "disk": tmp_path / "disk",
        "of_its_own": tmp_path / "disk/far/version_5",
        "itself": "itself",
        "nowhere": "not/there",
        "round": tmp_path / "back",
        "../back/round": root,
        "../disk/far/round": tmp_path / "back",
    }.items():
        (root / name).symlink_to(target)
    every = [*ALL, "ended/version_0", "ended/version_1", "small/version_0", "disk/far/version_5"]
    assert sorted(runs("--format=json").names) == sorted(every)
    assert runs("a_link", "--format=json").names == ALL
    for word in ("xor/latest", "runs/xor/latest", "a_link", "a_link/version_3"):
        assert "predictions.csv" in runs("show", word).out
    (tmp_path / "linked").symlink_to(root)
    assert len(runs("--root=linked", "--format=json").names) == 8


def test_a_project_may_lie_in_a_folder_named_as_a_run(runs, root, tmp_path, monkeypatch):
    project = tmp_path / "version_2" / "[what]*?"
    shutil.copytree(root, project / "runs")
    (project / "xor").mkdir()
    monkeypatch.chdir(project)
    assert runs("show", "xor").out.split()[1] == "xor/version_3"
    assert runs("xor/version_1", "--format=json").names == ALL[1:2]


def test_a_folder_that_is_deleted_meanwhile_is_left_out(runs, root, monkeypatch):
    scandir = os.scandir

    def deleting(folder):
        if str(folder).endswith("small") and (root / "small").exists():
            shutil.rmtree(root / "small")
        return scandir(folder)

    monkeypatch.setattr(os, "scandir", deleting)
    said = runs("--format=json")
    assert sorted(said.names) == sorted([*ALL, "ended/version_0", "ended/version_1"])
    assert said.err == ""


def test_a_folder_that_cannot_be_read_is_named(runs, root, monkeypatch):
    scandir = os.scandir

    def forbidding(folder):
        if str(folder).endswith("small"):
            raise PermissionError(13, "Permission denied", folder)
        return scandir(folder)

    monkeypatch.setattr(os, "scandir", forbidding)
    said = runs("--format=json")
    assert sorted(said.names) == sorted([*ALL, "ended/version_0", "ended/version_1"])
    assert said.err == "left out: small/* which cannot be read\n"


def test_odd_values_are_shown(runs, root):
    odd = {"val/loss": "NaN", "val/acc": "-Infinity", "test/acc": None, "val/huge": 1e308}
    change(root / "xor/version_1", metrics=odd, seconds="NaN", best=None)
    config = yaml.safe_load((root / "xor/version_1/config.yaml").read_text())
    config["data"]["long"] = [*range(100_000)]
    config["data"]["more"] = {4: 0.5, None: {8: float("nan")}, True: []}
    config["data"]["when"] = datetime(2024, 1, 1, tzinfo=UTC).date()
    config["data"]["text"] = "one\ntwo"
    config["data"]["pairs"] = [[{1: float("inf")}]]
    for name in ALL[:2]:
        (root / name / "config.yaml").write_text(yaml.safe_dump(config))
    (row,) = runs("xor/version_1", "--format=json").rows
    assert (row["val/loss"], row["val/acc"], row.get("test/acc")) == ("NaN", "-Infinity", None)
    names = "data.when,data.pairs,data.more.4,data.more.None.8"
    (row,) = runs("xor/version_1", "--format=json", f"--columns={names}").rows
    assert [*row.values()] == ["2024-01-01", [[{"1": "Infinity"}]], 0.5, "NaN"]
    for args in (["xor/version_1", "--columns=+data.long"], ["show", "xor/version_1"]):
        assert max(map(len, runs(*args).out.splitlines())) < 1_000
    out = runs("compare", "xor/version_0", "xor/version_1").out
    assert "no option differs" in out
    assert "nan" in out


def test_a_record_that_is_broken_does_not_hide_the_rest_of_a_run(runs, root):
    (root / "xor/version_1/record.yaml").write_text("- {}\n")
    assert "record.yaml is broken: 'time' is missing" in runs("show", "xor/version_1").out


def test_a_comparison_has_the_options_that_differ_and_no_others(runs, root):
    out = runs("compare", "xor/version_0", "xor/version_1").out
    section = out.split("options that differ\n")[1].split("\n\n")[0]
    said = {line.split()[0]: line.split()[1:] for line in section.splitlines()}
    a, b = (flat(yaml.safe_load((root / name / "config.yaml").read_text())) for name in ALL[:2])
    assert said["model.optimizer"] == ["torch.optim.SGD", "torch.optim.Adam"]
    assert said["model.optimizer.lr"] == ["0.5", "0.05"]
    assert said["model.net.hidden"] == ["4", "8"]
    assert said["model.optimizer.momentum"] == ["0.0", "-"]
    absent = object()
    assert said.keys() == {name for name in a | b if a.get(name, absent) != b.get(name, absent)} - {"note"}
    assert "xor/version_0" in out.splitlines()[1]


def test_a_comparison_has_the_metrics_side_by_side(runs):
    first, second = runs("xor", "--format=json").rows[:2]
    out = runs("compare", "xor/version_0", "xor/version_1").out
    for name in ("val/loss", "test/acc"):
        (line,) = (line for line in out.splitlines() if line.startswith(f"  {name} "))
        assert line.split()[1:] == [f"{row[name]:.4f}" for row in (first, second)]


def test_an_option_that_a_resume_changed_is_the_later_one(runs, root):
    run = root / "small/version_0"
    config, (entry,) = (yaml.safe_load((run / name).read_text()) for name in ("config.yaml", "record.yaml"))
    config["trainer"]["callbacks"] = [{"class_path": "my.First", "init_args": {"n": 1}}]
    (run / "config.yaml").write_text(yaml.safe_dump(config))
    changed = {
        "trainer.max_epochs": 7,
        "model.init_args.optimizer.init_args.lr": 0.25,
        "trainer.callbacks": [{"class_path": "my.Second", "init_args": {"k": 2}}],
    }
    (run / "record.yaml").write_text(yaml.safe_dump([entry, entry | {"changed": changed}]))
    section = runs("compare", "xor/version_0", "small").out.split("options that differ\n")[1].split("\n\n")[0]
    assert {line.split()[0]: line.split()[1:] for line in section.splitlines()} == {
        "experiment": ["xor", "small"],
        "trainer.max_epochs": ["4", "7"],
        "model.optimizer.lr": ["0.5", "0.25"],
        "trainer.callbacks": ["null", "-"],
        "trainer.callbacks.Second": ["-", "my.Second"],
        "trainer.callbacks.Second.k": ["-", "2"],
    }


def test_runs_of_the_same_options_are_told_to_be_so(runs, root):
    shutil.copytree(root / "xor/version_0", root / "xor/version_7")
    assert "no option differs" in runs("compare", "xor/version_0", "xor").out


@pytest.mark.parametrize(
    "word",
    ["xor/version_3", "xor", "runs/xor/version_3", "runs/xor", "runs/xor/version_3/predictions.csv", "./runs/xor/"],
)
def test_a_run_is_named_by_its_place_a_path_or_as_the_latest(word, runs):
    out = runs("show", word).out
    assert out.splitlines()[0].split() == ["run", "xor/version_3"]
    assert "predictions.csv" in out


def test_a_run_is_named_from_within(runs, root, monkeypatch):
    monkeypatch.chdir(root / "xor/version_3/")
    assert runs("show", ".", "--root=../..").out.split()[1] == "xor/version_3"
    assert runs("show", ".").out.split()[1].endswith("runs/xor/version_3")


def test_the_latest_is_the_one_with_the_highest_number(runs, root):
    shutil.copytree(root / "xor/version_0", root / "xor/version_10")
    assert runs("show", "xor").out.split()[1] == "xor/version_10"
    assert "no such run" in refused(runs("show", "xor/version_11"))


def test_show_has_facts_files_and_options(runs, root):
    said = runs("show", "xor/version_0").out
    assert "the first" in said
    for path in (root / "xor/version_0").rglob("*.*"):
        assert path.relative_to(root / "xor/version_0").as_posix() in said
    assert f"{(root / 'xor/version_0/config.yaml').stat().st_size:,} bytes" in said
    assert ["model.optimizer.lr", "0.5"] in [line.split() for line in said.splitlines()]


def test_neither_torch_nor_what_is_as_slow_is_imported(root):
    for args in ([], ["--where", "test/acc > 0"], ["compare", "xor/version_0", "xor/version_1"], ["show", "xor"]):
        command = [sys.executable, "-X", "importtime", "-m", "src", "runs", *args]
        env = os.environ | {"PYTHONPATH": str(PROJECT)}
        done = subprocess.run(command, cwd=root.parent, env=env, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        assert "xor/version_0" in done.stdout or args == ["show", "xor"]
        imported = {line.rpartition("|")[2].strip().split(".")[0] for line in done.stderr.splitlines()}
        assert {"src", "json"} <= imported
        assert not imported & {"torch", "lightning", "numpy", "matplotlib", "torchmetrics", "jsonargparse"}
        if not args:
            assert "yaml" not in imported


def test_a_pipe_that_closes_early_is_no_error(root):
    for number in range(20, 400):
        (root / f"xor/version_{number}").mkdir()
    command = [sys.executable, "-m", "src", "runs"]
    env = os.environ | {"PYTHONPATH": str(PROJECT)}
    process = subprocess.Popen(command, cwd=root.parent, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    process.stdout.read(10)
    process.stdout.close()
    assert process.stderr.read() == b""
    process.stderr.close()
    assert process.wait() == 0


NOW_S = 2_000_000_000.0


@pytest.mark.parametrize(
    ("updated_s", "written_s", "state"),
    [
        (NOW_S - SILENT_S + 1, 0, "running"),
        (NOW_S - SILENT_S, 0, "failed"),
        (0, NOW_S - 60, "running"),  # a long epoch, in which it writes a checkpoint
        (NOW_S + 600, 0, "running"),  # a clock that runs ahead
        (NOW_S + 86_400, NOW_S - 3_600, "failed"),  # so far ahead that the files know better
        (NOW_S + 86_400, NOW_S + 86_400, "running"),
    ],
)
def test_a_run_is_taken_for_killed_when_it_is_silent(updated_s, written_s, state, root):
    folder = root / ALL[0]
    for path in folder.rglob("*"):
        os.utime(path, (written_s, written_s))
    found, reason = judge("gpu-7", updated_s, folder, NOW_S)
    assert found == state
    assert ("taken for killed" in reason) == (state == "failed")
    assert "-" not in reason.removeprefix("on gpu-7")


def test_a_run_without_an_end_is_judged_in_the_table(runs, root):
    for name in ALL[:2]:
        change(root / name, state="running", updated="2020-01-01T00:00:00+00:00", host="gpu-7")
        for path in (root / name).rglob("*"):
            os.utime(path, (0, 0))
    (root / ALL[1] / "checkpoints/last.ckpt").touch()
    assert [row["state"] for row in runs("xor", "--format=json").rows[:2]] == ["failed", "running"]
