"""A sweep in this process: what is checked first, what it leaves, that it is the same twice."""

import csv
import socket
from pathlib import Path

import matplotlib as mpl
import pytest
import torch
import yaml
from optuna.trial import TrialState

from src.tools.sweep import lease, main, worker
from src.tools.sweep.folder import Sweep
from src.tools.sweep.fragment import fragment
from src.tools.sweep.lease import LEASES, Leases
from src.tools.sweep.plan import Plan
from src.tools.sweep.space import points, probes, read_space
from src.tools.sweep.study import open_storage, open_study
from src.tools.sweep.trial import Outcome
from tests.conftest import SMALL, Done
from tests.xor import XorMLP

SHORT = ("--config", SMALL, "--trainer.accelerator=cpu", "--trainer.max_epochs=2", "--data.passes=5")
SPACE = {"model.optimizer.lr": {"low": 0.05, "high": 2.0, "log": True}, "model.net.hidden": [4, 8]}
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
            code = 0
        except SystemExit as stop:
            code = stop.code if isinstance(stop.code, int) else 1
            out, err = capfd.readouterr()
            return Done(code, out, err + (stop.code if isinstance(stop.code, str) else ""), {})
        return Done(code, *capfd.readouterr(), {})

    return run


def rows(folder: Path = FOLDER) -> list[dict[str, str]]:
    """Those of trials.csv, without what another run of the same does not share."""
    with (folder / "trials.csv").open(newline="") as file:
        return [{k: v for k, v in row.items() if k not in ("folder", "seconds")} for row in csv.DictReader(file)]


WRONG = {
    "an unknown option": ({"model.net.hiden": [4]}, "Option 'hiden' is not accepted by XorMLP. Did you mean hidden?"),
    "an unknown section": ({"modl.net.hidden": [4]}, "modl.net.hidden: there is no such option. Did you mean model."),
    "bounds in disorder": ({"model.net.hidden": {"low": 9, "high": 2}}, "model.net.hidden: low 9, high 2: low <= high"),
    "a log of zero": ({"model.optimizer.lr": {"low": 0.0, "high": 1.0, "log": True}}, "model.optimizer.lr: low 0.0, "),
    "a fraction of a unit": (
        {"model.net.hidden": {"low": 2.5, "high": 8}},
        "model.net.hidden: expected int; got '2.5'",
    ),
    "a text as a bound": ({"model.net.hidden": {"low": "a", "high": 8}}, "model.net.hidden: low: 'a' is no number"),
    "one wrong choice": ({"model.net.hidden": [4, "many"]}, "model.net.hidden: expected int; got 'many'"),
    "no such class": ({"model.optimizer": ["torch.optim.SGD", "torch.optim.Adm"]}, "there is no 'Adm' in torch.optim"),
    "wrong below a choice": (
        {"model.optimizer": {"torch.optim.SGD": None, "torch.optim.Adam": {"model.optimizer.momentum": [0.9]}}},
        "Option 'momentum' is not accepted",
    ),
    "neither range nor choices": ({"model.net.hidden": 3}, "model.net.hidden: expected a range"),
    "the same to Python": ({"model.optimizer.lr": [1, 0.5, 1.0]}, "model.optimizer.lr: 1 and 1.0 are one choice"),
    "the sweep's own": ({"checkpoint.mode": ["min", "max"]}, "checkpoint.mode: a sweep sets it itself"),
    "given twice": ({"trainer.max_epochs": [1, 2]}, "trainer.max_epochs is in the space, and given as an option"),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_space_is_one_line_and_nothing_is_started(case, sweep):
    space, message = WRONG[case]
    done = sweep({"space": space}, *SHORT)
    assert done.code != 0
    assert done.err.startswith("error: ")
    assert message in done.err
    assert len(done.err.splitlines()) == 1
    assert done.out == ""
    assert not Path("runs").exists()


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (
            {"sampler": {"class_path": "optuna.samplers.TPESampler", "init_args": {"seeds": 1}}},
            "'seeds' is not accepted",
        ),
        ({"pruner": "optuna.pruners.MeanPruner"}, "'optuna.pruners' has no attribute 'MeanPruner'"),
        ({"sampler": "optuna.samplers.GridSampler"}, "model.optimizer.lr: a grid needs a step"),
        ({"sampler": "optuna.samplers.BruteForceSampler", "space": {"model.net.hidden": [4, 8]}}, "`Study.stop`"),
        ({"metric": "val/acc"}, "val/acc: is a larger one better? Say `direction: maximize`"),
        ({"trails": 3}, "expected `space` and, if you like, metric, direction, sampler, pruner, trials; got"),
    ],
)
def test_wrong_words_beside_the_space_are_one_line_and_nothing_is_started(more, message, sweep):
    done = sweep({"space": SPACE} | more, *SHORT)
    assert done.code != 0
    assert message in done.err
    assert len(done.err.splitlines()) == 1
    assert not Path("runs").exists()


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("--trainer.fast_dev_run=true", "trainer.fast_dev_run: it leaves no checkpoints"),
        ("--experiment=a::b", "runs/a::b: a folder of runs cannot have `::` in its path"),
        ("--print_config", "--print_config: a sweep has no config of its own"),
        ("--resume=space.yaml", "--resume space.yaml: cannot make this folder"),
    ],
)
def test_an_option_that_no_sweep_can_have_is_one_line(option, message, sweep):
    sampler = {"class_path": "optuna.samplers.TPESampler", "init_args": None}  # left empty in the YAML
    done = sweep({"space": SPACE, "sampler": sampler}, *SHORT, option)
    assert done.code == 1
    assert message in done.err
    assert len(done.err.splitlines()) == 1
    assert not Path("runs").exists()


def test_all_trials_read_the_files_as_they_were_when_it_began(sweep, monkeypatch):
    for name, text in {
        "base.yaml": SMALL.read_text(),
        "exp/own.yaml": "config: ../base.yaml\ndata: {passes: 5}\n",
    }.items():
        Path(name).parent.mkdir(exist_ok=True)
        Path(name).write_text(text)
    Path("more.yaml").write_text("data: {batch_size: 2}\n")
    words = ("--config", "exp/own.yaml", "--trainer.max_epochs=1", "--resume", "at once")
    content = {"space": {"config": ["more.yaml"], "model.net.hidden": [4, 8]}, "trials": 1}
    done = sweep(content, *words)
    assert done.code == 0, done.err
    assert (
        "next  python -m src fit --config exp/own.yaml --trainer.max_epochs=1 --config 'at once/best.yaml'" in done.out
    )
    assert "go on" not in done.err
    assert "--resume 'at once'" in done.out
    Path("base.yaml").write_text(SMALL.read_text().replace("SGD", "Adam"))
    Path("more.yaml").write_text("data: {batch_size: 1}\n")
    done = sweep(content, *words)
    assert done.err.startswith("error: base.yaml, more.yaml: edited since at once began")
    monkeypatch.chdir("exp")
    done = sweep(None, "--resume", "../at once", "--trials", 2)
    assert done.code == 0, done.err
    for number in range(2):
        config = yaml.safe_load(Path(f"../at once/version_{number}/config.yaml").read_text())
        assert config["model"]["init_args"]["optimizer"]["class_path"] == "torch.optim.SGD"
        assert config["data"]["init_args"] == {"batch_size": 2, "passes": 5}
        assert config["experiment"] == "own"
    assert yaml.safe_load(Path("../at once/best.yaml").read_text())["config"] == ["given/more.yaml"]


def test_a_sweep_has_as_many_trials_as_have_begun_and_a_grid_no_more_than_points(sweep):
    content = {"space": {"model.net.hidden": [4, 8]}, "sampler": "optuna.samplers.GridSampler"}
    words = (*SHORT, "--trainer.max_epochs=1", "--resume", FOLDER)
    assert sweep(content, *words).code == 0
    done = sweep(content, *words, "--trials", 50)
    assert done.code == 0, done.err
    assert len(rows()) == 2
    done = sweep(None, "--resume", FOLDER, "--trials", 1)
    assert done.code == 1
    assert done.err == f"error: --trials 1: 2 have begun in {FOLDER}. Name at least as many."


def test_trials_are_runs_and_the_best_one_alone_is_tested(sweep, cli):
    done = sweep({"space": SPACE, "trials": 3}, *SHORT)
    assert done.code == 0, done.err
    assert [row["state"] for row in rows()] == ["complete"] * 3
    values = [float(row["value"]) for row in rows()]
    best = values.index(min(values))
    for number, row in enumerate(rows()):
        run = FOLDER / f"version_{number}"
        config = yaml.safe_load((run / "config.yaml").read_text())
        assert config["model"]["init_args"]["optimizer"]["init_args"]["lr"] == float(row["model.optimizer.lr"])
        assert config["model"]["init_args"]["net"]["init_args"]["hidden"] == int(row["model.net.hidden"])
        checkpoint = torch.load(run / "checkpoints/best.ckpt", weights_only=True)
        assert [score for state in checkpoint["callbacks"].values() if (score := state.get("best_score"))] == [
            values[number]
        ]
        assert not any("sweep" in name.lower() for name in checkpoint["callbacks"])
        assert "test/loss" not in (run / "metrics.csv").read_text()
        assert f"trial {number}" in done.out
    assert [path.name for path in FOLDER.glob("test_*")] == [f"test_{best}"]
    assert {path.name for path in FOLDER.glob("*.png")} == {
        f"{n}.png" for n in ("history", "importance", "slices", "parallel")
    }
    assert mpl.rcParams["axes.facecolor"] == "white"  # Optuna's style is that of its own pictures
    # The fragment gives the same fit, without the sweep.
    again = cli("fit", *SHORT, "--config", FOLDER / "best.yaml", "--test_after_fit=false")
    assert again.metrics["val/loss"] == values[best]
    # Whoever goes on with a whole sweep runs nothing.
    written = {path: path.read_bytes() for path in FOLDER.rglob("record.yaml")}
    assert sweep(None, "--resume", FOLDER).code == 0
    assert {path: path.read_bytes() for path in FOLDER.rglob("record.yaml")} == written


def test_each_of_ten_trials_is_compiled(sweep):
    """In one process torch compiles a net for eight shapes and then leaves it as it is, in silence."""
    WIDTHS.clear()
    widths = list(range(12, 22))
    options = ("--model.net", f"{__name__}.CompiledMLP", "--model.compile=true", "--trainer.max_epochs=1")
    content = {"space": {"model.net.hidden": widths}, "sampler": "optuna.samplers.GridSampler"}
    assert sweep(content, *SHORT, *options).code == 0
    assert set(widths) <= WIDTHS


POINTS = {"model.net.hidden": [4, 8]}
LAST = "the same point as trial"


def fitted(folder: Path = FOLDER) -> int:
    return len(list(folder.glob("version_*")))


def test_a_point_is_fitted_once_and_its_result_counts_for_all_trials_that_have_it(sweep):
    content = {"space": POINTS, "sampler": "optuna.samplers.RandomSampler", "trials": 4}
    done = sweep(content, *SHORT)
    assert done.code == 0, done.err
    done = sweep(None, "--resume", FOLDER, "--trials", 7)
    assert fitted() == 2
    assert "sweep 7 trials: 7 complete, 5 of them a point of another trial, not fitted again" in done.out
    by_point = {}
    with (FOLDER / "trials.csv").open(newline="") as file:
        for row in csv.DictReader(file):
            assert row["state"] == "complete"
            by_point.setdefault(row["model.net.hidden"], set()).add((row["value"], row["folder"]))
    assert [len(found) for found in by_point.values()] == [1, 1]
    # The best one is the trial that was fitted, whichever trial has its value.
    (test,) = FOLDER.glob("test_*")
    assert (FOLDER / test.name.replace("test", "version") / "checkpoints/best.ckpt").exists()


def test_a_point_of_fits_with_a_seed_drawn_anew_is_fitted_again(sweep):
    content = {"space": {"model.net.hidden": [4]}, "trials": 2}
    assert sweep(content, *SHORT, "--seed_everything=true").code == 0
    assert fitted() == 2


def test_a_point_that_failed_is_tried_again_by_the_next_command_alone(sweep):
    content = {"space": {"model.net": [f"{__name__}.BrokenMLP"]}, "trials": 3}
    done = sweep(content, *SHORT, "--max_failures", 2)
    assert [row["state"] for row in rows()] == ["failed"] * 3
    assert done.out.count(f"{LAST} 0, not fitted again") == 2
    assert done.err == f"error: no trial came to its end; see {FOLDER}/trials.csv\n"
    done = sweep(None, "--resume", FOLDER, "--trials", 5)
    assert done.out.count(f"{LAST} 3, not fitted again") == 1
    assert fitted() == 2


def test_a_point_that_was_pruned_is_not_begun_again(sweep):
    pruner = {"class_path": "optuna.pruners.ThresholdPruner", "init_args": {"upper": 0.0}}
    done = sweep({"space": {"model.net.hidden": [4]}, "trials": 2, "pruner": pruner}, *SHORT)
    assert [row["state"] for row in rows()] == ["pruned"] * 2
    assert f"{LAST} 0, not fitted again" in done.out
    assert fitted() == 1


def test_a_trial_waits_for_another_process_that_fits_its_point(tmp_path, monkeypatch):
    plan = Plan({"a": [1]}, "val/loss", "minimize", {"class_path": "optuna.samplers.RandomSampler"}, None, [])
    at_hand, crews = Sweep(tmp_path, plan, 3, "sqlite"), [Leases(tmp_path / LEASES, crew) for crew in ("one", "two")]
    storage = open_storage(at_hand)
    study = open_study(at_hand, storage)
    (first_lease, first), (second_lease, second) = (worker.take(at_hand, study, storage, crew, 3) for crew in crews)
    for trial, crew in ((first, "one"), (second, "two")):
        trial.set_user_attr("crew", crew)
    begun = []

    def fit(plan, trial, values, folder):
        begun.append(trial.number)
        # Meanwhile the other process draws the same point: it lets its trial go, and takes the next one.
        assert worker._run(at_hand, study, second, 3) is None
        second_lease.release()
        lease, third = worker.take(at_hand, study, storage, crews[1], 3)
        assert third.number == 2
        lease.release()
        return Outcome(TrialState.COMPLETE, 0.5)

    monkeypatch.setattr(worker, "printed", lambda words: {"seed_everything": 1})
    monkeypatch.setattr(worker, "run_trial", fit)
    study.tell(first, worker._run(at_hand, study, first, 3).value)
    first_lease.release()
    _, again = worker.take(at_hand, study, storage, crews[1], 3)
    again.set_user_attr("crew", "two")
    assert (again.number, worker._run(at_hand, study, again, 3).value) == (1, 0.5)
    assert begun == [0]


@pytest.mark.slow
def test_one_more_trial_of_the_same_sweep_and_none_of_another(sweep):
    content = {"space": SPACE, "trials": 1}
    assert sweep(content, *SHORT).code == 0
    first = rows()
    assert sweep(None, "--resume", FOLDER, "--trials", 2).code == 0
    assert len(rows()) == 2
    assert rows()[0] == first[0]
    other = {"space": {"model.optimizer.lr": {"low": 0.1, "high": 2.0}, "data.batch_size": [2]}}
    done = sweep(other, *SHORT, "--resume", FOLDER)
    assert done.code == 1
    assert len(done.err.splitlines()) == 1
    assert "model.optimizer.lr was {high: 2.0, log: true, low: 0.05}, now {high: 2.0, low: 0.1}" in done.err
    assert "model.net.hidden was [4, 8], is gone now; data.batch_size was not there, now [2]" in done.err
    # Nor by hand.
    file = FOLDER / "sweep.yaml"
    file.write_text(file.read_text().replace("high: 2.0", "high: 3.0"))
    assert "now {high: 3.0" in sweep(None, "--resume", FOLDER).err
    assert len(list(FOLDER.glob("version_*"))) == 2


@pytest.mark.slow
def test_the_same_seed_gives_the_same_trials_another_gives_others(sweep):
    def content(seed):
        sampler = {"class_path": "optuna.samplers.TPESampler", "init_args": {"seed": seed, "n_startup_trials": 2}}
        return {"space": SPACE, "trials": 4, "sampler": sampler}

    for seed in (0, 0, 1):
        assert sweep(content(seed), *SHORT).code == 0
    first, second, other = (rows(FOLDER.with_name(f"sweep_{number}")) for number in range(3))
    assert first == second
    assert first != other


@pytest.mark.slow
def test_a_grid_takes_each_point_once_with_what_a_choice_brings_along(sweep):
    Path("wide.yaml").write_text("model: {net: {hidden: 8}}\n")
    space = {
        "model.optimizer": {
            "torch.optim.SGD": {"model.optimizer.momentum": {"low": 0.0, "high": 0.5, "step": 0.5}},
            "torch.optim.Adam": None,
        },
        "config": ["wide.yaml", {"data": {"batch_size": 2}}],
    }
    done = sweep({"space": space, "sampler": "optuna.samplers.GridSampler"}, *SHORT)
    assert done.code == 0, done.err
    found = []
    for number in range(6):
        config = yaml.safe_load((FOLDER / f"version_{number}/config.yaml").read_text())
        net, optimizer = (config["model"]["init_args"][name] for name in ("net", "optimizer"))
        momentum = optimizer["init_args"].get("momentum")
        found.append(
            (optimizer["class_path"], momentum, net["init_args"]["hidden"], config["data"]["init_args"]["batch_size"])
        )
    sgd, adam = "torch.optim.SGD", "torch.optim.Adam"
    assert found == [
        (sgd, 0.0, 8, 4),
        (sgd, 0.0, 4, 2),
        (sgd, 0.5, 8, 4),
        (sgd, 0.5, 4, 2),
        (adam, None, 8, 4),
        (adam, None, 4, 2),
    ]
    assert len(rows()) == 6


@pytest.mark.slow
def test_a_trial_that_fails_is_told_with_its_error_and_the_next_one_runs(sweep):
    nets = ["tests.xor.XorMLP", f"{__name__}.BrokenMLP"]
    space = {"model.net": nets, "model.optimizer.lr": [0.5, 1.0e30]}
    grid = "optuna.samplers.GridSampler"
    done = sweep({"space": space, "sampler": grid}, *SHORT, "--max_failures", 4)
    assert done.code == 0, done.err
    assert [row["state"] for row in rows()] == ["complete", "failed", "failed", "failed"]
    errors = [row["error"] for row in rows()]
    assert errors[0] == ""
    assert "The loss is" in errors[1]
    assert errors[2] == errors[3] == "RuntimeError: out of memory, or so it seems"
    assert "best.yaml" in done.out
    assert "Traceback" in (FOLDER / "version_2/output.txt").read_text()


@pytest.mark.slow
def test_failures_in_a_row_end_the_sweep_with_one_line(sweep):
    content = {"space": {"model.net": [f"{__name__}.BrokenMLP"], "model.optimizer.lr": SPACE["model.optimizer.lr"]}}
    done = sweep(content, *SHORT, "--max_failures", 2)
    assert done.code == 1
    assert [row["state"] for row in rows()] == ["failed"] * 2
    assert done.err.splitlines() == [
        f"error: 2 trials in a row failed; the last one, {FOLDER}/version_1: RuntimeError: out of memory, or so it "
        f"seems. Go on with: python -m src sweep --resume {FOLDER}"
    ]


@pytest.mark.slow
def test_a_hopeless_trial_is_pruned_early_and_a_good_one_is_not(sweep):
    pruner = {"class_path": "optuna.pruners.ThresholdPruner", "init_args": {"upper": 2.0, "n_warmup_steps": 1}}
    space = {"model.optimizer.lr": [0.5, 100.0]}
    content = {"space": space, "sampler": "optuna.samplers.GridSampler", "pruner": pruner}
    done = sweep(content, "--config", SMALL, "--trainer.accelerator=cpu", "--trainer.max_epochs=5", "--data.passes=5")
    assert done.code == 0, done.err
    assert [row["state"] for row in rows()] == ["complete", "pruned"]
    epochs = [len((FOLDER / f"version_{k}/metrics.csv").read_text().splitlines()) - 1 for k in (0, 1)]
    assert epochs[0] == 5
    assert epochs[1] < 5
    assert "pruned  val/loss" in done.out


@pytest.mark.slow
def test_a_range_is_of_whole_numbers_where_the_option_takes_only_those(sweep):
    space = {"model.optimizer.lr": {"low": 0, "high": 1}, "model.net.hidden": {"low": 2, "high": 9}}
    assert sweep({"space": space, "trials": 1}, *SHORT).code == 0
    (row,) = rows()
    assert 0 < float(row["model.optimizer.lr"]) < 1
    assert row["model.net.hidden"].isdecimal()


def test_each_bound_and_choice_is_probed_in_as_few_points_as_can_be():
    space = read_space({"a.lr": {"low": 0.1, "high": 0.7}, "a.kind": {"x": {"a.m": [1, 2, 3, 4]}, "y": None}})
    found = probes(space)
    assert len(found) == 5
    assert {point["a.lr"] for point in found} >= {0.1, 0.7}
    assert {(point["a.kind"], point.get("a.m")) for point in found} == {
        ("x", 1),
        ("x", 2),
        ("x", 3),
        ("x", 4),
        ("y", None),
    }
    grid = points(read_space({"a.width": {"low": 2, "high": 8, "step": 3}, "a.on": [True, None]}))
    assert [(point["a.width"], point["a.on"]) for point in grid] == [(w, on) for w in (2, 5, 8) for on in (True, None)]


def test_one_process_has_a_trial_until_it_lets_it_go(tmp_path):
    first, second = Leases(tmp_path), Leases(tmp_path)
    held = first.take(3)
    assert second.take(3) is None
    held.release()
    assert second.take(3) is not None


def test_a_trial_of_another_machine_is_taken_over_when_its_heart_stands_still(tmp_path, monkeypatch):
    leases, beat = Leases(tmp_path), tmp_path / "3.beat"
    beat.write_text("elsewhere crew 42")
    assert leases.take(3) is None  # nobody knows yet whether it beats
    monkeypatch.setattr(lease, "SETTLE_S", 0.0)
    monkeypatch.setattr(lease, "SILENT_S", -1.0)  # its minute is over
    assert leases.take(3).before == "crew"
    assert lease.owner(beat) == (socket.gethostname(), "alone")


def test_a_point_becomes_a_config_whatever_the_order_of_its_options():
    values = {
        "model.optimizer.lr": 0.1,
        "model.optimizer": "torch.optim.SGD",
        "config": ["a.yaml"],
        "seed_everything": 3,
    }
    assert fragment(values) == {
        "config": ["a.yaml"],
        "seed_everything": 3,
        "model": {"optimizer": {"class_path": "torch.optim.SGD", "init_args": {"lr": 0.1}}},
    }
