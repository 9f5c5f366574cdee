"""A repeat of fits: seeds and folds, their statistics, and what a stop or a failure leaves."""

import csv
import io
import json
import os
import re
import signal
import sys
from contextlib import chdir, redirect_stderr, redirect_stdout
from types import SimpleNamespace
from typing import ClassVar

import numpy as np
import pytest
import torch
import yaml
from filelock import FileLock
from lightning.pytorch import Callback, LightningDataModule
from scipy.stats import ttest_1samp

from src.cli import main
from src.data.loader import TensorLoader
from src.engine.data.splits import fold_of
from src.module import LitModule
from src.tools import repeat
from src.tools.repeat.folds import Unseen, columns
from tests import stopping
from tests.conftest import Done, run_process
from tests.processes import processes

SEEDS = (3, 0, 11)
ONCE = ("--config", "sums.yaml", "--trainer.max_epochs", 1)
MADE = "runs/sums/repeat_0"


class Folded(stopping.Sums):
    """64 rows in folds, which may be unused."""

    def __init__(self, batch_size: int = 4, fold: tuple[int, int] | None = None, unused: bool = False) -> None:
        super().__init__(batch_size)
        self.train_rows, self.val_rows = fold_of(64, (0, 4) if unused or not fold else fold, seed=7)

    def train_dataloader(self) -> TensorLoader:
        return self._loader(self.train_rows, shuffle=True)

    def val_dataloader(self) -> TensorLoader:
        return self._loader(self.val_rows)


class Groups(Folded):
    """More folds than groups, which `fold_of` refuses."""

    def setup(self, stage: str) -> None:
        fold_of(64, (0, 5), 0, groups=torch.arange(64) % 3)


class Untested(stopping.Sums):
    """The same rows, without a test."""

    test_dataloader = LightningDataModule.test_dataloader


class Fail(Callback):
    """Breaks down in the second epoch of the runs with some seeds."""

    seeds: ClassVar[tuple[int, ...]] = ()

    def on_train_epoch_start(self, trainer, module):
        if trainer.current_epoch == 1 and int(os.environ["PL_GLOBAL_SEED"]) in self.seeds:
            raise RuntimeError("broken\ndown")


def call(folder, *args):
    """Run `python -m src repeat` in this process."""
    out, err, code = io.StringIO(), io.StringIO(), 0
    with chdir(folder), redirect_stdout(out), redirect_stderr(err):
        try:
            repeat.main([str(arg) for arg in args])
        except SystemExit as stop:
            code = stop.code if isinstance(stop.code, int) else 1
            print(stop.code, file=sys.stderr)
    return Done(code, out.getvalue(), err.getvalue(), {})


def write_config(folder):
    experiment = stopping.config(callbacks=({"class_path": f"{__name__}.Fail"},), dropout=0.2)
    experiment["data"]["class_path"] = f"{__name__}.Folded"
    (folder / "sums.yaml").write_text(yaml.safe_dump(experiment))


def table(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def numbers(path):
    return [
        {name: float(value) for name, value in row.items() if name.startswith(("test", "val"))} for row in table(path)
    ]


@pytest.fixture
def folder(tmp_path):
    write_config(tmp_path)
    return tmp_path


@pytest.fixture(scope="module")
def seeds(tmp_path_factory):
    """Three seeds, undisturbed: what was printed, and the repeat's folder."""
    folder = tmp_path_factory.mktemp("seeds")
    write_config(folder)
    handlers = [signal.getsignal(number) for number in signal.valid_signals()]
    done = call(folder, "--seeds", *SEEDS, "--config", "sums.yaml")
    assert done.code == 0, done.err
    assert [signal.getsignal(number) for number in signal.valid_signals()] == handlers
    return done.out, folder / MADE


def assert_equal(made, undisturbed):
    for number in range(len(SEEDS)):
        assert stopping.run_differences(made / f"version_{number}", undisturbed / f"version_{number}") == []
    for name in ("results.csv", "summary.yaml"):
        assert (made / name).read_text() == (undisturbed / name).read_text()


def test_seed_is_the_same_fit_by_hand_to_the_bit(seeds, folder, monkeypatch):
    _, made = seeds
    monkeypatch.chdir(folder)
    main(["fit", "--config", "sums.yaml", "--seed_everything", SEEDS[2], "--test_after_fit", "true"])
    by_hand = folder / "runs/sums/version_0"
    assert stopping.run_differences(made / "version_2", by_hand) == []
    tested = {name: float(value) for name, value in table(by_hand / "metrics.csv")[-1].items() if value}
    assert numbers(made / "results.csv")[2] == {name: tested[name] for name in ("test/loss", "test/mae")}


def test_seeds_have_mean_spread_and_interval_of_the_test(seeds):
    out, made = seeds
    summary = yaml.safe_load((made / "summary.yaml").read_text())
    assert (summary["seeds"], summary["failed"]) == (list(SEEDS), [])
    assert set(summary["metrics"]) == {"test/loss", "test/mae"}
    for name, found in summary["metrics"].items():
        values = [row[name] for row in numbers(made / "results.csv")]
        interval = ttest_1samp(values, 0).confidence_interval(0.95)
        assert len(set(values)) == found["runs"] == 3
        assert found["mean"] == pytest.approx(np.mean(values), rel=1e-12)
        assert found["std"] == pytest.approx(np.std(values, ddof=1), rel=1e-12)
        assert (found["low"], found["high"]) == pytest.approx((interval.low, interval.high), rel=1e-9)
        line = f"mean {found['mean']:.4f}  std {found['std']:.4f}  95% {found['low']:.4f} to {found['high']:.4f}"
        assert re.search(rf"^{name} +{re.escape(line)}  \(3 seeds\)$", out, re.MULTILINE)
    assert [(row["seed"], row["run"]) for row in table(made / "results.csv")] == [
        (str(seed), f"version_{number}") for number, seed in enumerate(SEEDS)
    ]
    assert "note" not in summary  # the test chose nothing
    assert "note: " not in out


def test_folds_predict_each_row_once_and_say_what_chose_the_checkpoints(folder):
    """At a rate at which the last epoch is not the best one."""
    done = call(folder, "--folds", 3, "--config", "sums.yaml", "--model.optimizer.lr", 1.0)
    assert done.code == 0, done.err
    made = folder / MADE
    predicted = table(made / "out_of_fold.csv")
    assert [int(row["row"]) for row in predicted] == list(range(64))
    x, target = Folded().data
    for fold, result in enumerate(numbers(made / "results.csv")):
        mine = [row for row in predicted if row["fold"] == str(fold)]
        rows = [int(row["row"]) for row in mine]
        assert set(rows) == set(fold_of(64, (fold, 3), seed=7)[1].tolist())
        net = stopping.Net(dropout=0.2).eval()
        best = torch.load(made / f"version_{fold}/checkpoints/best.ckpt", weights_only=True)["state_dict"]
        net.load_state_dict({name.removeprefix("net."): value for name, value in best.items()})
        scores = [float(row["score"]) for row in mine]
        assert scores == pytest.approx(net(x[rows]).flatten().tolist(), rel=1e-5)
        assert result["val/mae"] == pytest.approx(np.abs(scores - target[rows].flatten().numpy()).mean(), rel=1e-5)
        losses = [float(each["val/loss"]) for each in table(made / f"version_{fold}/metrics.csv")]
        assert losses[-1] > result["val/loss"] == pytest.approx(min(losses), rel=1e-6)
    summary = yaml.safe_load((made / "summary.yaml").read_text())
    assert all(set(found) == {"runs", "mean", "std"} for found in summary["metrics"].values())  # folds share rows
    assert "95%" not in done.out
    assert "test/" not in done.out  # that data stays unseen
    assert summary["note"].startswith("each fold's checkpoint was chosen on that fold, by val/loss")
    assert f"\nnote: {summary['note']}\n" in done.out


def test_seeds_without_a_test_say_that_the_validation_chose_the_checkpoints(folder):
    done = call(folder, "--seeds", 1, *ONCE, "--data", f"{__name__}.Untested")
    assert done.code == 0, done.err
    summary = yaml.safe_load((folder / MADE / "summary.yaml").read_text())
    assert summary["note"].startswith("each checkpoint was chosen on the same validation part, by val/loss")
    assert f"note: {summary['note']}\n" in done.out


def test_fold_without_rows_ends_it_before_the_first_fit(folder):
    done = call(folder, "--folds", 5, *ONCE, "--data", f"{__name__}.Groups")
    assert done.code == 1
    assert re.search(r"^error: fold=.*groups: 3", done.err, re.MULTILINE)
    assert not list(folder.glob("runs/sums/*"))


def test_unused_folds_are_reported(folder):
    done = call(folder, "--folds", 2, *ONCE, "--data.unused", "true")
    assert done.code == 1
    assert re.search(r"^error: row \d+ validates in fold 0 and in fold 1", done.err, re.MULTILINE)
    assert yaml.safe_load((folder / MADE / "summary.yaml").read_text())["folds"] == [0, 1]
    assert not (folder / MADE / "out_of_fold.csv").exists()


@pytest.mark.parametrize(
    ("rows", "shuffle", "word"),
    [([1, 2], True, "shuffles"), ([1, 2, 3], False, "has 3 rows"), (torch.ones(2) > 0, False, "row numbers")],
)
def test_unknown_rows_get_no_predictions(rows, shuffle, word, tmp_path, capsys):
    unseen = Unseen(tmp_path / "out_of_fold.csv")
    unseen.columns = {"score": [0.5, 0.25]}
    loader = SimpleNamespace(shuffle=shuffle)
    trainer = SimpleNamespace(datamodule=SimpleNamespace(val_rows=rows), val_dataloaders=loader)
    unseen.on_validation_start(trainer, LitModule)
    unseen.on_validation_end(trainer, LitModule)
    assert word in capsys.readouterr().err
    assert not unseen.path.exists()


def test_predict_step_may_return_several_numbers():
    found = columns({"sum": torch.ones(2, 1), "x": torch.arange(4.0).view(2, 2)})
    assert found == {"sum": [1.0, 1.0], "x_0": [0.0, 2.0], "x_1": [1.0, 3.0]}


@pytest.mark.slow
def test_failing_fit_is_noted_and_tried_again_by_a_resume(seeds, folder, monkeypatch):
    monkeypatch.setattr(Fail, "seeds", (SEEDS[1],))
    done = call(folder, "--seeds", *SEEDS, "--config", "sums.yaml")
    made = folder / MADE
    assert done.code == 1
    assert f"seed {SEEDS[1]}  failed: RuntimeError: broken down" in done.out
    assert "Traceback" in done.err
    assert "(2 seeds)" in done.out
    assert re.search(rf"^error: 1 of 3 failed.*python -m src repeat --resume {MADE}$", done.err, re.MULTILINE)
    assert [row["error"] for row in table(made / "results.csv")] == ["", "RuntimeError: broken down", ""]
    finished = (made / "version_0/checkpoints/last.ckpt").stat().st_mtime_ns
    monkeypatch.setattr(Fail, "seeds", ())
    done = call(folder, "--resume", made)
    assert done.code == 0, done.err
    assert done.out.count(" parameters, on ") == 1  # the failed fit alone
    assert (made / "version_0/checkpoints/last.ckpt").stat().st_mtime_ns == finished
    assert_equal(made, seeds[1])
    monkeypatch.setattr(Fail, "seeds", (0, 1, 2))
    done = call(folder, "--seeds", 6, "--config", "sums.yaml")
    assert done.code == 1
    assert len(list(folder.glob("runs/sums/repeat_1/version_*"))) == 3  # three failures in a row stop it


def test_ctrl_c_ends_it_in_good_order_and_a_config_edited_since_does_not_count(seeds, folder, monkeypatch):
    monkeypatch.setattr(stopping.Stop, "at", ("on_train_batch_end", 20))
    monkeypatch.setattr(stopping.Stop, "action", lambda: signal.raise_signal(signal.SIGINT))
    made = folder / MADE
    done = call(folder, "--seeds", *SEEDS, "--config", "sums.yaml")
    assert done.code == 130
    assert f"stopped by SIGINT; continue with: python -m src repeat --resume {MADE}" in done.err
    assert not (made / "version_1").exists()
    monkeypatch.setattr(stopping.Stop, "at", None)
    (folder / "sums.yaml").write_text((folder / "sums.yaml").read_text().replace("lr: 0.01", "lr: 0.5"))
    with FileLock(made / ".lock"):
        assert f"another process works on {made}" in call(folder, "--resume", made).err
    assert call(folder, "--resume", made).code == 0
    assert_equal(made, seeds[1])
    assert len(yaml.safe_load((made / "version_0/record.yaml").read_text())) == 2  # resumed, not begun anew


SUMS = "--config sums.yaml"


@pytest.mark.parametrize(
    ("args", "word"),
    [
        ("", "--seeds --folds --resume"),
        (f"--seeds 0 {SUMS}", "--seeds 0"),
        (f"--seeds 3 3 {SUMS}", "4294967295"),
        ("--seeds 3", "--config"),
        (f"--folds 1 {SUMS}", "--folds 1"),
        ("--resume nowhere --trainer.max_epochs 3", "leave out --trainer.max_epochs 3"),
        (f"--seeds 2 {SUMS} --seed_everything 7", "--seed_everything"),
        (f"--seeds 2 {SUMS} --ckpt_path last.ckpt", "--ckpt_path"),
        (f"--folds 2 {SUMS} --data tests.stopping.Sums", "tests.stopping.Sums has no folds."),
    ],
)
def test_mistake_is_one_line(args, word, folder):
    done = call(folder, *args.split())
    assert done.code > 0
    (line,) = [line for line in done.err.splitlines() if line.startswith("error: ")]
    assert word in line
    assert "Traceback" not in done.err
    assert not (folder / "runs").exists()


@pytest.mark.parametrize("words", [["1", "7", "9"], ["1,7,9"], ["[1, 7, 9]"]])
def test_seeds_are_a_list_in_any_form(words):
    assert repeat.read_seeds(words) == [1, 7, 9]
    assert repeat.read_seeds(["3"]) == [0, 1, 2]


@pytest.mark.slow
def test_kills_at_any_moment_change_no_result(seeds, folder):
    made = folder / MADE
    moments = (
        "on_train_batch_end:3",  # before the first checkpoint
        "on_train_batch_end:20",
        "on_train_batch_end:30",  # the first has fewer batches left: in the second
        "results.csv:1",
        "summary.json:2",
    )
    args = ("--seeds", *SEEDS, "--config", "sums.yaml")
    for moment in moments:
        done = run_process("repeat", *args, cwd=folder, env=os.environ | {"STOP": f"SIGKILL:{moment}"})
        assert done.returncode == -signal.SIGKILL, f"{moment}: {done.stdout}{done.stderr}"
        args = ("--resume", made)
    done = run_process("repeat", *args, cwd=folder)
    assert done.returncode == 0, done.stderr
    assert_equal(made, seeds[1])


@pytest.mark.slow
def test_folds_on_two_processes_predict_each_row_once_after_a_signal(folder):
    options = (*processes(2), "--trainer.max_epochs", "2")
    stop = os.environ | {"STOP": "SIGTERM:on_train_batch_end:8"}
    done = run_process("repeat", "--folds", 2, "--config", "sums.yaml", *options, cwd=folder, env=stop)
    assert done.returncode == 128 + signal.SIGTERM, done.stderr
    assert f"continue with: python -m src repeat --resume {MADE}" in done.stderr
    made = folder / MADE
    done = run_process("repeat", "--resume", made, cwd=folder)
    assert done.returncode == 0, done.stderr
    assert [int(row["row"]) for row in table(made / "out_of_fold.csv")] == list(range(64))
    assert len(numbers(made / "results.csv")) == 2
    for number in range(2):
        assert json.loads((made / f"version_{number}/summary.json").read_text())["processes"] == 2
