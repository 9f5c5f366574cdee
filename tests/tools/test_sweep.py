"""A sweep in this process: what is checked before anything starts, what it leaves, that it is the same twice."""

import csv
import json
from pathlib import Path

import pytest
import torch
import yaml
from filelock import FileLock
from jsonargparse import get_loader

from src.tools.common.fits import BASE, composed
from src.tools.sweep import results
from src.tools.sweep.plan import Sweep, check, read_sweep
from src.tools.sweep.search import Search
from src.tools.sweep.space import points, probes, read_space
from tests.conftest import SMALL
from tests.xor import XorMLP

SHORT = ("--config", SMALL, "--trainer.accelerator=cpu", "--trainer.max_epochs=1", "--data.passes=5")
SPACE = {"model.optimizer.lr": {"low": 0.05, "high": 2.0, "log": True}, "model.net.hidden": [4, 8]}
GRID, TPE, RANDOM = (f"optuna.samplers.{name}Sampler" for name in ("Grid", "TPE", "Random"))
SGD, ADAM = "torch.optim.SGD", "torch.optim.Adam"
FOLDER = Path("runs/xor/sweep_0")
PLOTS = results.PLOTS


class BrokenMLP(XorMLP):
    """A net that nobody can train."""

    def forward(self, x):
        raise RuntimeError("out of memory, or so it seems")


@pytest.fixture
def sweep(tool, monkeypatch):
    """Run `python -m src sweep ...` with a YAML of these contents."""
    monkeypatch.setattr(results, "PLOTS", results.PLOTS[:1])  # the others take longer than the trials

    def run(content=None, *args):
        if content is not None:
            Path("space.yaml").write_text(yaml.safe_dump(content, sort_keys=False))
            args = ("--sweep", "space.yaml", *args)
        return tool("sweep", *args)

    return run


def rows(folder: Path = FOLDER) -> list[dict[str, str]]:
    """Read trials.csv, without the seconds."""
    with (folder / "trials.csv").open(newline="") as file:
        return [{k: v for k, v in row.items() if k != "seconds"} for row in csv.DictReader(file)]


WRONG = {
    "unknown option": ({"space": {"model.net.hiden": [4]}}, "Did you mean hidden?"),
    "bounds": ({"space": {"model.net.hidden": {"low": 9, "high": 2}}}, "'low': 9, 'high': 2"),
    "step": ({"space": {"model.optimizer.lr": {"low": 0.0, "high": 0.9, "step": 0.2}}}, "0.8"),
    "text as a bound": ({"space": {"model.net.hidden": {"low": "a", "high": 8}}}, "model.net.hidden"),
    "below": ({"space": {"model.optimizer": {SGD: None, ADAM: {"model.optimizer.momentum": [0.9]}}}}, "momentum"),
    "equal": ({"space": {"model.optimizer.lr": [1, 0.5, 1.0]}}, "1, 0.5, 1.0"),
    "twice": ({"space": {"a.b": [1], "c.d": {"x": {"a.b": [2]}}}}, "a.b"),
    "own": ({"space": {"checkpoint.mode": ["min", "max"]}}, "checkpoint.mode"),
    "no file": ({"space": {"config": ["a.yaml"]}}, "config: a.yaml: No such file"),
    "sampler": ({"sampler": {"class_path": TPE, "init_args": {"seeds": 1}}}, "seeds"),
    "grid": ({"sampler": GRID}, "model.optimizer.lr: a grid needs a step"),
    "direction": ({"metric": "val/acc"}, "direction"),
    "unknown key": ({"trails": 3}, "trails"),
    "--experiment=a::b": ({}, "--experiment"),
    "--model.net.hidden=3": ({}, "model.net.hidden is in the space"),
    "--storage=postgresql://a:b@c/d": ({}, "--storage"),
    "--resume=runs": ({}, "not allowed with argument --sweep"),
}


@pytest.mark.parametrize("case", WRONG)
def test_mistake_is_one_line_before_anything_starts(case, sweep):
    content, word = WRONG[case]
    content = {"space": SPACE} | content
    done = sweep(content, *SHORT, *([case] if case.startswith("--") else []))
    assert done.code != 0
    assert word in done.err
    assert len(done.err.splitlines()) == 1
    assert done.out == ""
    assert not Path("runs").exists()


def test_grid_takes_each_point_once_and_reports_it(sweep, cli, monkeypatch):
    """Conditional choices and files; the config of the start counts; the best trial alone is tested."""
    monkeypatch.setattr(results, "PLOTS", PLOTS)
    Path("base.yaml").write_text(SMALL.read_text())
    Path("wide.yaml").write_text("model: {net: {hidden: 8}}\n")
    kinds = {SGD: {"model.optimizer.momentum": {"low": 0.0, "high": 0.5, "step": 0.5}}, ADAM: None}
    space = {"model.optimizer": kinds, "config": ["wide.yaml", {"data": {"batch_size": 2}}]}
    words = ("--config", "base.yaml", *SHORT[2:], "--experiment", "at once", "--trials", 4)
    done = sweep({"space": space, "sampler": GRID}, *words)
    assert done.code == 0, done.err
    folder, found = Path("runs/at once/sweep_0"), []
    assert f"--resume '{folder}'" in done.out
    Path("base.yaml").write_text(SMALL.read_text().replace("hidden: 4", "hidden: 5"))
    Path("wide.yaml").write_text("model: {net: {hidden: 9}}\n")
    assert "has 4 trials" in sweep(None, "--resume", folder, "--trials", 1).err
    with FileLock(folder / ".lock"):
        assert "another process works on" in sweep(None, "--resume", folder).err
    done = sweep(None, "--resume", folder, "--trials", 50)
    assert done.code == 0, done.err
    for row in rows(folder):
        config = yaml.safe_load(Path(row["folder"], "config.yaml").read_text())
        model, data = config["model"]["init_args"], config["data"]["init_args"]
        kind, momentum = model["optimizer"]["class_path"], model["optimizer"]["init_args"].get("momentum")
        found.append((kind, momentum, model["net"]["init_args"]["hidden"], data["batch_size"]))
        assert (data["passes"], row["model.optimizer.momentum"]) == (5, str(momentum) if kind == SGD else "")
        assert float(row["value"]) == json.loads(Path(row["folder"], "summary.json").read_text())["best"]
        assert "test/loss" not in Path(row["folder"], "metrics.csv").read_text()
        assert f"trial {row['number']}" in done.out or int(row["number"]) < 4
    kinds = ((SGD, 0.0), (SGD, 0.5), (ADAM, None))
    assert sorted(found, key=str) == sorted(((*kind, *rest) for kind in kinds for rest in ((8, 4), (4, 2))), key=str)
    assert {row["config"] for row in rows(folder)} == {"wide.yaml", '{"data": {"batch_size": 2}}'}
    best = min(rows(folder), key=lambda row: float(row["value"]))
    assert (folder / f"test_{best['number']}/summary.json").exists()
    assert {path.stem for path in folder.glob("*.png")} == set(results.PLOTS)
    # best.yaml gives the same fit, without the sweep.
    assert f"next  python -m src fit --config '{folder}/best.yaml'" in done.out
    assert cli("fit", "--config", folder / "best.yaml").metrics["val/loss"] == float(best["value"])


@pytest.mark.parametrize(("seed", "fits"), [("5", 1), pytest.param("true", 3, marks=pytest.mark.slow)])
def test_point_is_fitted_once_unless_each_fit_draws_a_seed(seed, fits, sweep, monkeypatch):
    resets = []  # else torch compiles the nets of 8 trials, and leaves the others as they are
    monkeypatch.setattr(torch.compiler, "reset", lambda: resets.append(1))
    content = {"space": {"model.net.hidden": [2]}, "sampler": RANDOM, "trials": 3}
    reference = "--data.batch_size=${model.init_args.net.init_args.hidden}"
    done = sweep(content, *SHORT, f"--seed_everything={seed}", reference)
    assert done.code == 0, done.err
    # A reference follows the searched option.
    assert yaml.safe_load((FOLDER / "version_0/config.yaml").read_text())["data"]["init_args"]["batch_size"] == 2
    assert len(list(FOLDER.glob("version_*"))) == fits
    assert done.out.count("version_0 has this point already") == 3 - fits
    assert len({row["value"] for row in rows()}) == fits
    assert len(resets) == fits + 1  # and the test
    # Nothing is left to run.
    written = {path: path.read_bytes() for path in FOLDER.rglob("record.yaml")}
    assert sweep(None, "--resume", FOLDER).code == 0
    assert {path: path.read_bytes() for path in FOLDER.rglob("record.yaml")} == written


def test_failed_trial_has_its_error_and_failures_in_a_row_end_the_sweep(sweep):
    space = {"model.optimizer.lr": [1.0e30, 0.5], "model.net": [f"{__name__}.BrokenMLP", "tests.xor.XorMLP"]}
    done = sweep({"space": space, "sampler": GRID}, *SHORT)
    assert done.code == 1
    assert [row["state"] for row in rows()] == 3 * ["failed"]
    errors = [row["error"] for row in rows()]
    assert "The loss is" in errors[1]
    assert errors[2] == "RuntimeError: out of memory, or so it seems"
    assert "Traceback" in (FOLDER / "version_2/output.txt").read_text()
    assert len(done.err.splitlines()) == 1
    assert f"{errors[2]}. Continue with: python -m src sweep --resume {FOLDER}" in done.err
    assert sweep(None, "--resume", FOLDER).code == 0
    assert [row["state"] for row in rows()] == [*3 * ["failed"], "complete"]


PLAN = {"files": {}, "metric": "val/loss", "direction": "minimize", "storage": None}
PLAN |= {"sampler": {"class_path": TPE}, "pruner": {"class_path": "optuna.pruners.NopPruner"}}


def test_range_has_fractions_where_the_option_takes_them():
    space = {"model.optimizer.lr": {"low": 0, "high": 1}, "model.net.hidden": {"low": 2, "high": 9}}
    sweep = Sweep(PLAN | {"space": space}, composed([str(word) for word in SHORT]))
    check(sweep)
    for each in sweep.space, read_space(yaml.safe_load(yaml.safe_dump(space, sort_keys=False))):  # also from sweep.yaml
        assert [option.is_whole for option in each] == [False, True]


def test_study_lies_in_its_own_folder_and_choices_stay_what_they_are(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = Path('a?b%20#{i} it\'s "so"', "sweep_0")
    folder.mkdir(parents=True)
    (folder / BASE).write_text("{}")
    space = {"a": {4: None, 0.5: {"b": {"low": 1, "high": 2}}, True: None, None: None, "1e3": None, "[x]": None}}
    sweep = Sweep(PLAN | {"space": space}, {}, folder=folder)
    Search(sweep)
    sweep.save()
    assert read_sweep(folder).plan == sweep.plan
    assert [path.name for path in tmp_path.iterdir()] == [folder.parent.name]
    for value in space["a"]:
        (word,) = sweep.options({"a": value})
        read = get_loader("yaml")(word.removeprefix("--config="))
        assert read == {"a": value}
        assert type(read["a"]) is type(value)


def test_points_depend_on_the_seed_of_the_sampler(tmp_path):
    found = []
    for name, seed in (("one", 1), ("again", 1), ("other", 2)):
        kind = {"class_path": TPE, "init_args": {"seed": seed}}
        sweep = Sweep(PLAN | {"space": SPACE, "sampler": kind}, {"seed_everything": 1}, folder=tmp_path / name)
        sweep.folder.mkdir()
        search = Search(sweep)
        found.append([str(search.next()[2]) for _ in range(3)])
    assert found[0] == found[1] != found[2]
    assert len({*found[0]}) == 3


def test_each_bound_and_choice_is_probed_and_becomes_options():
    space = read_space({"a.lr": {"low": 0.1, "high": 0.7}, "a.kind": {"x": {"a.m": [1, 2, 3, 4]}, "y": None}})
    found = probes(space)
    assert len(found) == 5
    assert {point["a.lr"] for point in found} >= {0.1, 0.7}
    pairs = {(point["a.kind"], point.get("a.m (x)")) for point in found}
    assert pairs == {("x", 1), ("x", 2), ("x", 3), ("x", 4), ("y", None)}
    grid = points(read_space({"a.width": {"low": 2, "high": 8, "step": 3}, "a.on": [True, None]}))
    assert [(point["a.width"], point["a.on"]) for point in grid] == [(w, on) for w in (2, 5, 8) for on in (True, None)]
    sweep = Sweep(PLAN | {"space": {"a.b.c": [1], "a.b": ["X"]}}, {})
    words = ['--config={"a": {"b": "X"}}', '--config={"a": {"b": {"c": 1}}}']  # a class before its arguments
    assert sweep.options({"a.b.c": 1, "a.b": "X"}) == words
