"""A repeat of fits: seeds and folds, their statistics, and what a stop or a failure leaves."""

import csv
import functools
import os
import re
import signal
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
import torch
import yaml
from filelock import FileLock
from lightning.pytorch import Callback
from scipy.stats import ttest_1samp

from src.cli import main
from src.data.loader import TensorLoader
from src.engine.data.splits import fold_of
from tests import stopping
from tests.conftest import run_process

SEEDS = (3, 0, 11)
CONFIG = ("--config", "sums.yaml")
ONCE = (*CONFIG, "--trainer.max_epochs", 1)
MADE = Path("runs/sums/repeat_0")


class Folded(stopping.Sums):
    """64 rows in folds, which may be unused; `val_rows` may hold one that is left out of the validation."""

    def __init__(
        self, batch_size: int = 4, fold: tuple[int, int] | None = None, unused: bool = False, skip: int = 0
    ) -> None:
        super().__init__(batch_size)
        self.train_rows, self.val_rows = fold_of(64, (0, 4) if unused or not fold else fold, seed=7)
        self.skip = skip

    def train_dataloader(self) -> TensorLoader:
        return self._loader(self.train_rows, shuffle=True)

    def val_dataloader(self) -> TensorLoader:
        return self._loader(self.val_rows[self.skip :])


class Fail(Callback):
    """Breaks down in the second epoch of the runs with some seeds."""

    seeds: ClassVar[tuple[int, ...]] = ()

    def on_train_epoch_start(self, trainer, module):
        if trainer.current_epoch == 1 and int(os.environ["PL_GLOBAL_SEED"]) in self.seeds:
            raise RuntimeError("broken\ndown")


def write_config(folder):
    experiment = stopping.config(callbacks=({"class_path": f"{__name__}.Fail"},), dropout=0.2, devices=1)
    experiment["data"]["class_path"] = f"{__name__}.Folded"
    experiment["test_after_fit"] = True
    (folder / "sums.yaml").write_text(yaml.safe_dump(experiment))


@pytest.fixture
def call(tool, tmp_path):
    """Run `python -m src repeat` beside an experiment."""
    write_config(tmp_path)
    return functools.partial(tool, "repeat")


def table(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def results(made=MADE):
    return [{name: float(value) for name, value in row.items() if "/" in name} for row in table(made / "results.csv")]


def summary(made=MADE):
    return yaml.safe_load((made / "summary.yaml").read_text())


@pytest.fixture(scope="module")
def seeds(tmp_path_factory):
    """Three seeds, undisturbed: the repeat's folder."""
    folder = tmp_path_factory.mktemp("seeds")
    write_config(folder)
    (folder / "out").write_text(run_process("repeat", "--seeds", *SEEDS, *CONFIG, cwd=folder).stdout)
    return folder / MADE


def assert_equal(undisturbed):
    for number in range(len(SEEDS)):
        assert stopping.run_differences(MADE / f"version_{number}", undisturbed / f"version_{number}") == []
    for name in ("results.csv", "summary.yaml"):
        assert (MADE / name).read_text() == (undisturbed / name).read_text()


def test_seed_is_the_same_fit_by_hand_to_the_bit(seeds, call):
    main(["fit", *CONFIG, "--seed_everything", SEEDS[2]])
    by_hand = Path("runs/sums/version_0")
    assert stopping.run_differences(seeds / "version_2", by_hand) == []
    tested = {name: float(value) for name, value in table(by_hand / "metrics.csv")[-1].items() if value}
    assert results(seeds)[2] == {name: tested[name] for name in ("test/loss", "test/mae")}


def test_seeds_have_mean_spread_and_interval_of_the_test(seeds):
    out, found = (seeds.parents[2] / "out").read_text(), summary(seeds)
    assert (found["seeds"], found["failed"]) == (list(SEEDS), [])
    assert set(found["metrics"]) == {"test/loss", "test/mae"}
    for name, each in found["metrics"].items():
        values = [row[name] for row in results(seeds)]
        interval = ttest_1samp(values, 0).confidence_interval(0.95)
        expected = {"runs": 3, "mean": np.mean(values), "std": np.std(values, ddof=1)}
        assert len(set(values)) == 3
        assert each == pytest.approx(expected | {"low": interval.low, "high": interval.high}, rel=1e-9)
        line = f"mean {each['mean']:.4f}  std {each['std']:.4f}  95% {each['low']:.4f} to {each['high']:.4f}"
        assert re.search(rf"^{name} +{re.escape(line)}  \(3 seeds\)$", out, re.MULTILINE)
    rows = [(int(row["seed"]), row["run"]) for row in table(seeds / "results.csv")]
    assert rows == [(seed, f"version_{number}") for number, seed in enumerate(SEEDS)]
    assert "note" not in found  # the test chose nothing


def test_folds_predict_each_row_once_and_say_what_chose_the_checkpoints(call):
    """At a rate at which the last epoch is not the best one."""
    done = call("--folds", 2, *CONFIG, "--model.optimizer.lr", 1.0)
    assert done.code == 0, done.err
    predicted = table(MADE / "out_of_fold.csv")
    assert [int(row["row"]) for row in predicted] == list(range(64))
    x, target = Folded().data
    for fold, result in enumerate(results()):
        mine = [row for row in predicted if row["fold"] == str(fold)]
        rows = [int(row["row"]) for row in mine]
        assert set(rows) == set(fold_of(64, (fold, 2), seed=7)[1].tolist())
        net = stopping.Net(dropout=0.2).eval()
        best = torch.load(MADE / f"version_{fold}/checkpoints/best.ckpt", weights_only=True)["state_dict"]
        net.load_state_dict({name.removeprefix("net."): value for name, value in best.items()})
        scores = [float(row["score"]) for row in mine]
        assert scores == pytest.approx(net(x[rows]).flatten().tolist(), rel=1e-5)
        assert result["val/mae"] == pytest.approx(np.abs(scores - target[rows].flatten().numpy()).mean(), rel=1e-5)
        losses = [float(each["val/loss"]) for each in table(MADE / f"version_{fold}/metrics.csv")]
        assert losses[-1] > result["val/loss"] == pytest.approx(min(losses), rel=1e-6)
    assert all(set(found) == {"runs", "mean", "std"} for found in summary()["metrics"].values())  # folds share rows
    assert "95%" not in done.out
    assert "test/" not in done.out  # that data stays unseen
    assert f"\nnote: {summary()['note']}\n" in done.out


def test_seeds_without_a_test_say_that_the_validation_chose_the_checkpoints(call):
    done = call("--seeds", 1, *ONCE, "--test_after_fit=false")
    assert done.code == 0, done.err
    assert summary()["seeds"] == [0]  # the number of them
    assert "chosen the checkpoint, by val/loss" in summary()["note"]
    assert f"note: {summary()['note']}\n" in done.out


@pytest.mark.parametrize(
    ("option", "code", "said"),
    [
        ("unused=true", 1, r"^error: row \d+ validates in fold 0 and in fold 1"),
        ("skip=1", 0, "^note: no out_of_fold.csv: val_rows"),
    ],
)
def test_folds_of_uncertain_rows_are_reported(option, code, said, call):
    done = call("--folds", 2, *ONCE, f"--data.{option}")
    assert done.code == code
    assert re.search(said, done.err, re.MULTILINE)
    assert summary()["folds"] == [0, 1]
    assert not (MADE / "out_of_fold.csv").exists()


@pytest.mark.slow
def test_failing_fit_is_noted_and_tried_again_by_a_resume(seeds, call, monkeypatch):
    monkeypatch.setattr(Fail, "seeds", (SEEDS[1],))
    done = call("--seeds", *SEEDS, *CONFIG)
    assert done.code == 1
    assert f"seed {SEEDS[1]}  failed: RuntimeError: broken down" in done.out
    assert "Traceback" in done.err
    assert "(2 seeds)" in done.out
    assert re.search(rf"^error: 1 of 3 failed.*python -m src repeat --resume {MADE}$", done.err, re.MULTILINE)
    assert [row["error"] for row in table(MADE / "results.csv")] == ["", "RuntimeError: broken down", ""]
    finished = (MADE / "version_0/checkpoints/last.ckpt").stat().st_mtime_ns
    monkeypatch.setattr(Fail, "seeds", ())
    done = call("--resume", MADE)
    assert done.code == 0, done.err
    assert done.out.count(" parameters, on ") == 1  # the failed fit alone
    assert (MADE / "version_0/checkpoints/last.ckpt").stat().st_mtime_ns == finished
    assert_equal(seeds)
    monkeypatch.setattr(Fail, "seeds", (0, 1, 2))
    assert call("--seeds", 6, *CONFIG).code == 1
    assert len(list(Path().glob("runs/sums/repeat_1/version_*"))) == 3  # three failures in a row stop it


def test_ctrl_c_ends_it_in_good_order_and_a_config_edited_since_does_not_count(seeds, call, monkeypatch):
    handlers = [signal.getsignal(number) for number in signal.valid_signals()]
    monkeypatch.setattr(stopping.Stop, "at", ("on_train_batch_end", 20))
    monkeypatch.setattr(stopping.Stop, "action", lambda: signal.raise_signal(signal.SIGINT))
    done = call("--seeds", *SEEDS, *CONFIG)
    assert done.code == 130
    assert f"stopped by SIGINT; continue with: python -m src repeat --resume {MADE}" in done.err
    assert not (MADE / "version_1").exists()
    assert [signal.getsignal(number) for number in signal.valid_signals()] == handlers
    monkeypatch.setattr(stopping.Stop, "at", None)
    Path("sums.yaml").write_text(Path("sums.yaml").read_text().replace("lr: 0.01", "lr: 0.5"))
    with FileLock(MADE / ".lock"):
        assert f"another process works on {MADE}" in call("--resume", MADE).err
    assert call("--resume", MADE).code == 0
    assert_equal(seeds)
    assert len(yaml.safe_load((MADE / "version_0/record.yaml").read_text())) == 2  # resumed, not begun anew


@pytest.mark.parametrize(
    ("args", "word"),
    [
        ("", "--seeds --folds --resume"),
        ("--seeds 0 --config sums.yaml", "--seeds [0]"),
        ("--seeds 3 3 --config sums.yaml", "4294967295"),
        ("--seeds 3", "--config"),
        ("--resume nowhere --trainer.max_epochs 3", "leave out --trainer.max_epochs 3"),
        ("--resume nowhere", "nowhere"),
        ("--seeds 2 --config sums.yaml --seed_everything 7", "--seed_everything"),
        ("--seeds 2 --config sums.yaml --trainer.devices 2", "--trainer.devices=2"),
        ("--folds 2 --config sums.yaml --data tests.stopping.Sums", "tests.stopping.Sums has no folds."),
        ("--folds 65 --config sums.yaml", "64"),
    ],
)
def test_mistake_is_one_line(args, word, call):
    done = call(*args.split())
    assert done.code > 0
    (line,) = [line for line in done.err.splitlines() if line.startswith("error: ")]
    assert word in line
    assert "Traceback" not in done.err
    assert not list(Path().glob("runs/sums/*"))


@pytest.mark.slow
def test_kills_at_any_moment_change_no_result(seeds, call, tmp_path):
    moments = (
        "on_train_batch_end:3",  # before the first checkpoint
        "on_train_batch_end:20",
        "on_train_batch_end:30",  # the first has fewer batches left: in the second
        "results.csv:1",
        "summary.json:2",
    )
    args = ("--seeds", *SEEDS, *CONFIG)
    for moment in moments:
        done = run_process("repeat", *args, cwd=tmp_path, env=os.environ | {"STOP": f"SIGKILL:{moment}"})
        assert done.returncode == -signal.SIGKILL, f"{moment}: {done.stdout}{done.stderr}"
        args = ("--resume", MADE)
    done = run_process("repeat", *args, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert_equal(seeds)
