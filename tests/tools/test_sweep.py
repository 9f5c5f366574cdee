"""A sweep in this process: what is checked before anything starts, what it leaves, that it is the same twice."""

import csv
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import matplotlib as mpl
import pytest
import torch
import yaml
from jsonargparse import get_loader

from src.tools.sweep import main
from src.tools.sweep.plan import Sweep, load
from src.tools.sweep.space import as_yaml, fragment, points, probes, read_space
from src.tools.sweep.study import open_storage, open_study
from tests.conftest import SMALL, Done
from tests.xor import XorMLP

SHORT = ("--config", SMALL, "--trainer.accelerator=cpu", "--trainer.max_epochs=2", "--data.passes=5")
SPACE = {"model.optimizer.lr": {"low": 0.05, "high": 2.0, "log": True}, "model.net.hidden": [4, 8]}
GRID = "optuna.samplers.GridSampler"
FOLDER = Path("runs/xor/sweep_0")


class BrokenMLP(XorMLP):
    """A net that nobody can train."""

    def forward(self, x):
        raise RuntimeError("out of memory, or so it seems")


WIDTHS: set[int] = set()


def note_width(graph, inputs):
    """Compile a graph to itself, and note the widths of the nets that are compiled."""
    WIDTHS.update(each.shape[0] for each in inputs if each.dim() == 2 and each.shape[1] == 2)
    return graph


class CompiledMLP(XorMLP):
    """A net that is compiled without a compiler, in no time."""

    def compile(self, *args, **kwargs):
        super().compile(backend=note_width)


@pytest.fixture
def sweep(tmp_path, monkeypatch, capfd):
    """Run `python -m src sweep ...` in this process, in a folder of its own, with a YAML of these contents."""
    monkeypatch.chdir(tmp_path)

    def run(content=None, *args):
        capfd.readouterr()
        if content is not None:
            Path("space.yaml").write_text(yaml.safe_dump(content, sort_keys=False))
            args = ("--sweep", "space.yaml", *args)
        try:
            main([str(arg) for arg in args])
        except SystemExit as stop:
            out, err = capfd.readouterr()
            return Done(1, out, err + (stop.code if isinstance(stop.code, str) else ""), {})
        return Done(0, *capfd.readouterr(), {})

    return run


def rows(folder: Path = FOLDER) -> list[dict[str, str]]:
    """Those of trials.csv, without what another run of the same does not share."""
    with (folder / "trials.csv").open(newline="") as file:
        return [{k: v for k, v in row.items() if k not in ("folder", "seconds")} for row in csv.DictReader(file)]


def config_of(number: int) -> dict:
    config = yaml.safe_load((FOLDER / f"version_{number}/config.yaml").read_text())
    return config | config["model"]["init_args"]


WRONG = {
    "an unknown option": ({"model.net.hiden": [4]}, "Option 'hiden' is not accepted by XorMLP. Did you mean hidden?"),
    "an unknown section": ({"modl.net.hidden": [4]}, "modl.net.hidden: there is no such option"),
    "bounds in disorder": ({"model.net.hidden": {"low": 9, "high": 2}}, "model.net.hidden: low 9, high 2: low <= high"),
    "a log of zero": ({"model.optimizer.lr": {"low": 0.0, "high": 1.0, "log": True}}, "model.optimizer.lr: low 0.0, "),
    "a fraction of a unit": (
        {"model.net.hidden": {"low": 2.5, "high": 8}},
        "hidden: expected int; got '2.5'",
    ),
    "a text as a bound": (
        {"model.net.hidden": {"low": "a", "high": 8}},
        "model.net.hidden: expected {low: number",
    ),
    "one wrong choice": ({"model.net.hidden": [4, "many"]}, "model.net.hidden: expected int; got 'many'"),
    "no such class": ({"model.optimizer": ["torch.optim.SGD", "torch.optim.Adm"]}, "there is no 'Adm' in torch.optim"),
    "wrong below a choice": (
        {"model.optimizer": {"torch.optim.SGD": None, "torch.optim.Adam": {"model.optimizer.momentum": [0.9]}}},
        "Option 'momentum' is not accepted",
    ),
    "neither range nor choices": ({"model.net.hidden": 3}, "model.net.hidden: expected a range"),
    "the same to Python": (
        {"model.optimizer.lr": [1, 0.5, 1.0]},
        "model.optimizer.lr: 1 and 1.0 are one choice",
    ),
    "twice": ({"a.b": [1], "c.d": {"x": {"a.b": [2]}}}, "a.b stands there more than once"),
    "the sweep's own": ({"checkpoint.mode": ["min", "max"]}, "checkpoint.mode: a sweep sets it itself"),
    "given twice": ({"trainer.max_epochs": [1, 2]}, "trainer.max_epochs is in the space, and given as an option"),
    "no such file": ({"config": ["a.yaml"]}, "config: a.yaml: No such file"),
}


@pytest.mark.parametrize(("space", "message"), WRONG.values(), ids=WRONG)
def test_a_wrong_space_is_one_line_and_nothing_is_started(space, message, sweep):
    refuses(sweep({"space": space}, *SHORT), message)


def refuses(done: Done, message: str) -> None:
    assert done.code != 0
    assert message in done.err
    assert len(done.err.splitlines()) == 1
    assert done.out == ""
    assert not Path("runs").exists()


TPE = "optuna.samplers.TPESampler"


@pytest.mark.parametrize(
    ("more", "options", "message"),
    [
        ({"sampler": {"class_path": TPE, "init_args": {"seeds": 1}}}, (), "'seeds' is not accepted"),
        ({"pruner": "optuna.pruners.MeanPruner"}, (), "'optuna.pruners' has no attribute 'MeanPruner'"),
        ({"sampler": GRID}, (), "model.optimizer.lr: a grid needs a step"),
        ({"sampler": "optuna.samplers.BruteForceSampler", "space": {"model.net.hidden": [4]}}, (), "`Study.stop`"),
        ({"metric": "val/acc"}, (), "val/acc: is a larger one better? Say `direction: maximize`"),
        ({"trails": 3}, (), "expected `space` and optionally metric, direction, sampler, pruner, trials; see trails"),
        ({}, ["--trainer.fast_dev_run=true"], "trials are compared by their checkpoints"),
        ({}, ["--trainer.devices=2"], "a trial runs on one device"),
        ({}, ["--experiment=a::b"], "runs/a::b: a folder of runs cannot have `::` in its path"),
        ({}, ["--print_config"], "--print_config: a sweep has no config of its own"),
        ({}, ["--ckpt_path=x"], "--ckpt_path: each trial is a new run"),
        ({}, ["--resume=space.yaml"], "--resume space.yaml: cannot make this folder"),
        ({}, ["--storage=postgresql://a:b@c/d"], "--storage: leave out the password"),
    ],
)
def test_what_no_sweep_can_have_is_one_line_and_nothing_is_started(more, options, message, sweep):
    refuses(
        sweep({"space": SPACE, "sampler": {"class_path": TPE, "init_args": None}} | more, *SHORT, *options), message
    )


def test_all_trials_use_the_config_composed_at_the_start_and_the_point_wins(sweep):
    Path("base.yaml").write_text(SMALL.read_text())
    Path("more.yaml").write_text("data: {batch_size: 2}\n")
    words = ("--config", "base.yaml", "--trainer.max_epochs=1", "--resume", "at once", "--data.passes=5")
    words = (*words, "--model.optimizer", "{class_path: torch.optim.Adam, init_args: {lr: 1.0}}")
    content = {"space": {"config": ["more.yaml"], "model.optimizer.lr": [0.25, 0.5]}, "trials": 1, "sampler": GRID}
    done = sweep(content, *words)
    assert done.code == 0, done.err
    assert "--resume 'at once'" in done.out
    Path("base.yaml").write_text(SMALL.read_text().replace("hidden: 4", "hidden: 5"))
    Path("more.yaml").write_text("data: {batch_size: 1}\n")
    assert "at once is another sweep, with other files" in sweep(content, *words).err
    done = sweep(None, "--resume", "at once", "--trials", 2)
    assert done.code == 0, done.err
    for number in range(2):
        config = yaml.safe_load(Path(f"at once/version_{number}/config.yaml").read_text())
        optimizer = config["model"]["init_args"]["optimizer"]
        assert optimizer["class_path"] == "torch.optim.Adam"
        assert optimizer["init_args"]["lr"] == (0.25, 0.5)[number]
        assert config["data"]["init_args"] == {"batch_size": 2, "passes": 5}
        assert config["experiment"] == "base"


def test_a_sweep_has_as_many_trials_as_have_begun_and_a_grid_no_more_than_points(sweep):
    content = {"space": {"model.net.hidden": [4, 8]}, "sampler": GRID}
    words = (*SHORT, "--trainer.max_epochs=1", "--resume", FOLDER)
    assert sweep(content, *words).code == 0
    done = sweep(content, *words, "--trials", 50)
    assert done.code == 0, done.err
    assert len(rows()) == 2
    assert sweep(None, "--resume", FOLDER, "--trials", 1).err == (
        f"error: --trials 1: 2 have begun in {FOLDER}. Name at least as many."
    )
    lock = load(FOLDER).lock
    with ThreadPoolExecutor(1) as another:
        another.submit(lock.acquire).result()
        assert f"another process works on {FOLDER}" in sweep(None, "--resume", FOLDER).err
        another.submit(lock.release).result()


def test_trials_are_runs_and_the_best_one_alone_is_tested(sweep, cli):
    done = sweep({"space": SPACE, "trials": 3}, *SHORT)
    assert done.code == 0, done.err
    assert [row["state"] for row in rows()] == ["complete"] * 3
    values = [float(row["value"]) for row in rows()]
    best = values.index(min(values))
    for number, row in enumerate(rows()):
        run, config = FOLDER / f"version_{number}", config_of(number)
        assert config["optimizer"]["init_args"]["lr"] == float(row["model.optimizer.lr"])
        assert config["net"]["init_args"]["hidden"] == int(row["model.net.hidden"])
        checkpoint = torch.load(run / "checkpoints/best.ckpt", weights_only=True)
        scores = [state["best_score"] for state in checkpoint["callbacks"].values() if state.get("best_score")]
        assert scores == [values[number]]
        assert "test/loss" not in (run / "metrics.csv").read_text()
        assert f"trial {number}" in done.out
    assert [path.name for path in FOLDER.glob("test_*")] == [f"test_{best}"]
    assert "test/loss" in (FOLDER / "best.yaml").read_text()
    plots = ("history", "importance", "slices", "parallel")
    assert {path.name for path in FOLDER.glob("*.png")} == {f"{name}.png" for name in plots}
    assert mpl.rcParams["axes.facecolor"] == "white"  # Optuna's style is that of its own plots
    # The fragment gives the same fit, without the sweep.
    again = cli("fit", *SHORT, "--config", FOLDER / "best.yaml", "--test_after_fit=false")
    assert again.metrics["val/loss"] == values[best]
    # Nothing is left to run.
    written = {path: path.read_bytes() for path in FOLDER.rglob("record.yaml")}
    assert sweep(None, "--resume", FOLDER).code == 0
    assert {path: path.read_bytes() for path in FOLDER.rglob("record.yaml")} == written


def test_each_of_ten_trials_is_compiled(sweep):
    """In one process torch compiles a net for eight shapes and then leaves it as it is, in silence."""
    WIDTHS.clear()
    widths = list(range(12, 22))
    options = ("--model.net", f"{__name__}.CompiledMLP", "--model.compile=true", "--trainer.max_epochs=1")
    assert sweep({"space": {"model.net.hidden": widths}, "sampler": GRID}, *SHORT, *options).code == 0
    assert set(widths) <= WIDTHS


@pytest.mark.parametrize(("seed", "fits"), [("5", 2), ("true", 4)])
def test_a_point_is_fitted_once_unless_each_fit_draws_a_seed(seed, fits, sweep):
    content = {"space": {"model.net.hidden": [4, 8]}, "sampler": "optuna.samplers.RandomSampler", "trials": 4}
    done = sweep(content, *SHORT, f"--seed_everything={seed}")
    assert done.code == 0, done.err
    assert len(list(FOLDER.glob("version_*"))) == fits
    assert (f"{4 - fits} of them a point of another trial, not fitted again" in done.out) == (fits < 4)
    by_point = {row["model.net.hidden"]: row["value"] for row in rows()}
    assert fits == 4 or all(by_point[row["model.net.hidden"]] == row["value"] for row in rows())


@pytest.mark.slow
def test_the_same_seed_gives_the_same_trials_another_gives_others(sweep):
    def content(seed):
        sampler = {"class_path": TPE, "init_args": {"seed": seed, "n_startup_trials": 2}}
        return {"space": SPACE, "trials": 4, "sampler": sampler}

    for seed in (0, 0, 1):
        assert sweep(content(seed), *SHORT).code == 0
    first, second, other = (rows(FOLDER.with_name(f"sweep_{number}")) for number in range(3))
    assert first == second
    assert first != other


@pytest.mark.slow
def test_a_grid_takes_each_point_once_with_what_a_choice_brings_along(sweep):
    Path("wide.yaml").write_text("model: {net: {hidden: 8}}\n")
    sgd, adam = "torch.optim.SGD", "torch.optim.Adam"
    momentum = {"model.optimizer.momentum": {"low": 0.0, "high": 0.5, "step": 0.5}}
    space = {"model.optimizer": {sgd: momentum, adam: None}, "config": ["wide.yaml", {"data": {"batch_size": 2}}]}
    done = sweep({"space": space, "sampler": GRID}, *SHORT)
    assert done.code == 0, done.err
    found = []
    for number in range(6):
        config = config_of(number)
        optimizer, net, data = (config[name]["init_args"] for name in ("optimizer", "net", "data"))
        found.append((config["optimizer"]["class_path"], optimizer.get("momentum"), net["hidden"], data["batch_size"]))
    kinds = ((sgd, 0.0), (sgd, 0.5), (adam, None))
    assert found == [(*kind, *rest) for kind in kinds for rest in ((8, 4), (4, 2))]
    assert len(rows()) == 6
    assert rows()[0]["config"] == "wide.yaml"


def test_a_trial_that_fails_is_reported_with_its_error_and_the_next_one_runs(sweep):
    space = {"model.net": ["tests.xor.XorMLP", f"{__name__}.BrokenMLP"], "model.optimizer.lr": [0.5, 1.0e30]}
    done = sweep({"space": space, "sampler": GRID}, *SHORT, "--max_failures", 4)
    assert done.code == 0, done.err
    assert [row["state"] for row in rows()] == ["complete", "failed", "failed", "failed"]
    errors = [row["error"] for row in rows()]
    assert errors[0] == ""
    assert "The loss is" in errors[1]
    assert errors[2] == errors[3] == "RuntimeError: out of memory, or so it seems"
    assert "Traceback" in (FOLDER / "version_2/output.txt").read_text()


@pytest.mark.slow
def test_failures_in_a_row_end_the_sweep_with_one_line_and_a_failed_point_is_tried_again(sweep):
    done = sweep({"space": {"model.net": [f"{__name__}.BrokenMLP"]}, "trials": 3}, *SHORT, "--max_failures", 2)
    assert done.code == 1
    assert [row["state"] for row in rows()] == ["failed"] * 2
    assert done.err.splitlines() == [
        f"error: too many trials in a row failed, 1 are left; the last one, {FOLDER}/version_1: RuntimeError: out of "
        f"memory, or so it seems. Continue with: python -m src sweep --resume {FOLDER}"
    ]


@pytest.mark.slow
def test_a_hopeless_trial_is_pruned_early_and_a_good_one_is_not(sweep):
    pruner = {"class_path": "optuna.pruners.ThresholdPruner", "init_args": {"upper": 2.0, "n_warmup_steps": 1}}
    content = {"space": {"model.optimizer.lr": [0.5, 100.0]}, "sampler": GRID, "pruner": pruner}
    done = sweep(content, "--config", SMALL, "--trainer.accelerator=cpu", "--trainer.max_epochs=5", "--data.passes=5")
    assert done.code == 0, done.err
    assert [row["state"] for row in rows()] == ["complete", "pruned"]
    epochs = [len((FOLDER / f"version_{k}/metrics.csv").read_text().splitlines()) - 1 for k in (0, 1)]
    assert epochs[0] == 5
    assert epochs[1] < 5
    assert "pruned  val/loss" in done.out


def test_a_range_has_fractions_where_the_option_takes_them_and_a_short_step_is_noted(sweep):
    space = {"model.optimizer.lr": {"low": 0, "high": 1}, "model.net.hidden": {"low": 2, "high": 9}}
    space["model.optimizer.momentum"] = {"low": 0.0, "high": 0.9, "step": 0.2}
    done = sweep({"space": space, "trials": 1}, *SHORT)
    assert done.err.splitlines()[:1] == [
        "note: model.optimizer.momentum: step 0.2 does not divide 0.0 to 0.9: the highest value is 0.8."
    ]
    (row,) = rows()
    assert 0 < float(row["model.optimizer.lr"]) < 1
    assert row["model.net.hidden"].isdecimal()


def test_each_bound_and_choice_is_probed_in_as_few_points_as_can_be():
    space = read_space({"a.lr": {"low": 0.1, "high": 0.7}, "a.kind": {"x": {"a.m": [1, 2, 3, 4]}, "y": None}})
    found = probes(space)
    assert len(found) == 5
    assert {point["a.lr"] for point in found} >= {0.1, 0.7}
    assert {(point["a.kind"], point.get("a.m")) for point in found} == {*(("x", m) for m in (1, 2, 3, 4)), ("y", None)}
    grid = points(read_space({"a.width": {"low": 2, "high": 8, "step": 3}, "a.on": [True, None]}))
    assert [(point["a.width"], point["a.on"]) for point in grid] == [(w, on) for w in (2, 5, 8) for on in (True, None)]
    (interval,) = read_space({"model.scheduler_interval": {"step": None, "epoch": None}})
    assert interval.distribution.choices == ("step", "epoch")


def test_a_point_becomes_a_config_whatever_the_order_of_its_options():
    values = {"model.optimizer.lr": 0.1, "model.optimizer": "SGD", "config": {"data": 1}, "seed_everything": 3}
    optimizer = {"class_path": "SGD", "init_args": {"lr": 0.1}}
    assert fragment(values) == {"seed_everything": 3, "data": 1, "model": {"optimizer": optimizer}}


PLAN = {
    "files": {},
    "metric": "val/loss",
    "direction": "minimize",
    "sampler": {"class_path": TPE},
    "pruner": None,
    "storage": None,
}


@pytest.mark.parametrize("name", ["a?b", "c%20d", "e#f", "g&h=1", "{i}", "k:l", "²", 'it\'s "so"', "-m"])
def test_a_study_lies_in_its_own_folder_and_choices_stay_what_they_are(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = Path(name, "sweep_0")
    folder.mkdir(parents=True)
    space = {"a": {4: None, 0.5: {"b": {"low": 1, "high": 2}}, True: None, None: None, "1e3": None}}
    sweep = Sweep(PLAN | {"space": space}, {}, folder=folder)
    open_study(sweep, open_storage(sweep))
    sweep.save()
    assert load(folder).plan == sweep.plan
    assert [path.name for path in tmp_path.iterdir()] == [name]
    for value in space["a"]:
        read = get_loader("yaml")(as_yaml(sweep.point({"a": value})))
        assert read == {"a": value}
        assert type(read["a"]) is type(value)


def test_a_missing_optuna_is_one_line_with_the_command_that_adds_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(SystemExit, match=r"^error: A sweep needs Optuna.*: pip install"):
        main(["--config", "configs/xor.yaml", "--sweep", "space.yaml"])
