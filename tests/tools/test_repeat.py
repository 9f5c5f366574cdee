import csv
import io
import json
import os
import re
import shutil
import signal
import sys
from contextlib import chdir, redirect_stderr, redirect_stdout
from pathlib import Path
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
from tests import stopping
from tests.conftest import Done, run_process
from tests.processes import processes

SEEDS = (3, 0, 11)


class Folded(stopping.Sums):
    """64 rows in folds.

    Args:
        deaf: The folds are not used.
        shuffle: The validation is shuffled, so that nobody knows the rows.
        mask: The validation rows are told by a mask.
    """

    def __init__(
        self,
        batch_size: int = 4,
        fold: tuple[int, int] | None = None,
        deaf: bool = False,
        shuffle: bool = False,
        mask: bool = False,
    ) -> None:
        super().__init__(batch_size)
        self.shuffle = shuffle
        self.train_rows, self.rows = fold_of(64, (0, 4) if deaf or not fold else fold, seed=7)
        self.val_rows = torch.zeros(64, dtype=torch.bool).index_fill(0, self.rows, True) if mask else self.rows

    def train_dataloader(self) -> TensorLoader:
        return self._loader(self.train_rows, shuffle=True)

    def val_dataloader(self) -> TensorLoader:
        return self._loader(self.rows, shuffle=self.shuffle)


class Chunks(Folded):
    """Folds of the user's own, by chunks of 16 rows: the fifth has none; or by `fold_of`, which refuses that."""

    def __init__(self, batch_size: int = 4, fold: tuple[int, int] | None = None, ours: bool = False) -> None:
        super().__init__(batch_size)
        self.fold, self.ours = fold, ours

    def setup(self, stage: str) -> None:
        first = 16 * self.fold[0]
        if self.ours:
            fold_of(64, self.fold, 0, groups=torch.arange(64) % 3)
        self.train_rows, self.rows = torch.arange(64), torch.arange(first, max(first, min(first + 16, 64)))


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
    """`python -m src repeat` in this process."""
    out, err, code = io.StringIO(), io.StringIO(), 0
    with chdir(folder), redirect_stdout(out), redirect_stderr(err):
        try:
            repeat.main([str(arg) for arg in args])
        except SystemExit as stop:
            code = stop.code if isinstance(stop.code, int) else 1
            print(stop.code, file=sys.stderr)
    return Done(code, out.getvalue(), err.getvalue(), {})


def write_config(folder):
    experiment = stopping.config(callbacks=({"class_path": "tests.tools.test_repeat.Fail"},), dropout=0.2)
    experiment["data"]["class_path"] = "tests.tools.test_repeat.Folded"
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
    return done.out, folder / "runs/sums/repeat_0"


@pytest.fixture(scope="module")
def folds(tmp_path_factory):
    """Three folds, at a rate at which the last epoch is not the best one."""
    folder = tmp_path_factory.mktemp("folds")
    write_config(folder)
    done = call(folder, "--folds", 3, "--config", "sums.yaml", "--model.optimizer.lr", 1.0)
    assert done.code == 0, done.err
    return done.out, folder / "runs/sums/repeat_0"


def test_each_seed_is_the_same_fit_by_hand_to_the_bit(seeds, folder, monkeypatch):
    _, made = seeds
    monkeypatch.chdir(folder)
    for version, number in enumerate((0, 2)):  # of the first the options come from the file, of others from its run
        main(["fit", "--config", "sums.yaml", "--seed_everything", SEEDS[number], "--test_after_fit", "true"])
        by_hand = folder / f"runs/sums/version_{version}"
        assert stopping.run_differences(made / f"version_{number}", by_hand) == []
        tested = {name: float(value) for name, value in table(by_hand / "metrics.csv")[-1].items() if value}
        assert numbers(made / "results.csv")[number] == {name: tested[name] for name in ("test/loss", "test/mae")}


def test_mean_spread_and_interval_are_those_of_numpy_and_scipy(seeds):
    out, made = seeds
    told = yaml.safe_load((made / "summary.yaml").read_text())
    assert told["seeds"] == list(SEEDS)
    assert told["failed"] == []
    assert set(told["metrics"]) == {"test/loss", "test/mae"}
    for name, found in told["metrics"].items():
        values = [row[name] for row in numbers(made / "results.csv")]
        interval = ttest_1samp(values, 0).confidence_interval(0.95)
        assert len(set(values)) == found["runs"] == 3
        assert found["mean"] == pytest.approx(np.mean(values), rel=1e-12)
        assert found["std"] == pytest.approx(np.std(values, ddof=1), rel=1e-12)
        assert (found["low"], found["high"]) == pytest.approx((interval.low, interval.high), rel=1e-9)
        line = f"mean {found['mean']:.4f}  std {found['std']:.4f}  95% {found['low']:.4f} to {found['high']:.4f}"
        assert re.search(rf"^{name} +{re.escape(line)}  \(3 seeds\)$", out, re.MULTILINE)
    for number, (seed, row) in enumerate(zip(SEEDS, table(made / "results.csv"), strict=True)):
        assert (row["seed"], row["run"], row["error"]) == (str(seed), f"version_{number}", "")
        result = f"test/loss {float(row['test/loss']):.4f}  test/mae {float(row['test/mae']):.4f}"
        assert f"\nseed {seed}  {result}  runs/sums/repeat_0/version_{number}\n" in out
    assert "note" not in told  # seeds are compared by the test, which chose nothing
    assert "note: " not in out


def test_each_row_is_predicted_once_by_the_net_that_has_not_seen_it(folds):
    _, made = folds
    rows = table(made / "out_of_fold.csv")
    assert [int(row["row"]) for row in rows] == list(range(64))
    x = Folded().data[0]
    for fold in range(3):
        _, unseen = fold_of(64, (fold, 3), seed=7)
        mine = [row for row in rows if row["fold"] == str(fold)]
        assert {int(row["row"]) for row in mine} == set(unseen.tolist())
        net = stopping.Net(dropout=0.2).eval()
        best = torch.load(made / f"version_{fold}/checkpoints/best.ckpt", weights_only=True)["state_dict"]
        net.load_state_dict({name.removeprefix("net."): value for name, value in best.items()})
        expected = net(x[[int(row["row"]) for row in mine]]).flatten().tolist()
        assert [float(row["score"]) for row in mine] == pytest.approx(expected, rel=1e-5)


def test_of_folds_the_validation_of_the_best_checkpoint_is_told(folds):
    out, made = folds
    predicted = table(made / "out_of_fold.csv")
    target = Folded().data[1]
    for fold, row in enumerate(numbers(made / "results.csv")):
        of = [(float(one["score"]), target[int(one["row"])].item()) for one in predicted if one["fold"] == str(fold)]
        assert row["val/mae"] == pytest.approx(np.mean([abs(a - b) for a, b in of]), rel=1e-5)
        losses = [float(each["val/loss"]) for each in table(made / f"version_{fold}/metrics.csv")]
        assert losses[-1] > row["val/loss"] == pytest.approx(min(losses), rel=1e-6)
    assert re.search(r"^val/loss +mean .*\(3 folds\)$", out, re.MULTILINE)
    assert "test/" not in out  # that data stays unseen


def test_folds_get_no_interval_and_both_outputs_say_what_chose_the_checkpoints(folds):
    """Folds share training rows, so an interval by Student's t would be too narrow."""
    out, made = folds
    told = yaml.safe_load((made / "summary.yaml").read_text())
    for name, found in told["metrics"].items():
        assert set(found) == {"runs", "mean", "std"}
        values = [row[name] for row in numbers(made / "results.csv")]
        assert found["std"] == pytest.approx(np.std(values, ddof=1), rel=1e-12)
    assert "95%" not in out
    note = "each fold's checkpoint was chosen on that fold, by val/loss, so its score is optimistic"
    assert told["note"] == note
    assert f"\nnote: {note}\n" in out


ONCE = ("--config", "sums.yaml", "--trainer.max_epochs", 1)


def test_an_empty_fold_ends_it_before_the_first_fit_or_is_noted(folder):
    chunks = (*ONCE, "--data", f"{__name__}.Chunks")
    done = call(folder, "--folds", 5, *chunks, "--data.ours", "true")
    assert done.code == 1
    assert re.search(
        r"^error: fold=\[0, 5\]: .*groups: 3\. Take fewer: --data\.fold, or repeat", done.err, re.MULTILINE
    )
    assert not list(folder.glob("runs/sums/*"))
    done = call(folder, "--folds", 5, *chunks)
    assert done.code == 1
    assert re.search(r"^fold 4  failed: There is no sample to load", done.out, re.MULTILINE)
    assert "Traceback" not in done.err
    done = call(folder, "--folds", 2, *chunks, "--trainer.limit_val_batches", 0)
    assert "the part is empty, or --trainer.limit_val_batches is 0. After fixing it: " in done.err


def test_seeds_without_a_test_say_that_the_validation_chose_the_checkpoints(folder):
    done = call(folder, "--seeds", 2, *ONCE, "--data", f"{__name__}.Untested")
    assert done.code == 0, done.err
    told = yaml.safe_load((folder / "runs/sums/repeat_0/summary.yaml").read_text())
    assert set(told["metrics"]["val/loss"]) == {"runs", "mean", "std", "low", "high"}
    assert told["note"].startswith("each checkpoint was chosen on the same validation part, by val/loss")
    assert f"note: {told['note']}\n" in done.out


@pytest.mark.slow
def test_a_failing_fit_is_noted_and_tried_again_by_a_resume(seeds, folder, monkeypatch):
    monkeypatch.setattr(Fail, "seeds", (SEEDS[1],))
    done = call(folder, "--seeds", *SEEDS, "--config", "sums.yaml")
    made = folder / "runs/sums/repeat_0"
    assert done.code == 1
    assert f"seed {SEEDS[1]}  failed: RuntimeError: broken down  runs/sums/repeat_0/version_1\n" in done.out
    assert "Traceback" in done.err
    assert "(2 seeds)" in done.out
    assert re.search(
        r"^error: 1 of 3 failed.*python -m src repeat --resume runs/sums/repeat_0$", done.err, re.MULTILINE
    )
    assert [row["error"] for row in table(made / "results.csv")] == ["", "RuntimeError: broken down", ""]
    finished = (made / "version_0/checkpoints/last.ckpt").stat().st_mtime_ns
    monkeypatch.setattr(Fail, "seeds", ())
    done = call(folder, "--resume", made)
    assert done.code == 0, done.err
    assert done.out.count(" parameters, on ") == 1  # one fit alone is gone on with
    assert (made / "version_0/checkpoints/last.ckpt").stat().st_mtime_ns == finished
    assert_equal(made, seeds[1])


def assert_equal(made, undisturbed):
    for number in range(len(SEEDS)):
        assert stopping.run_differences(made / f"version_{number}", undisturbed / f"version_{number}") == []
    for name in ("results.csv", "summary.yaml"):
        assert (made / name).read_text() == (undisturbed / name).read_text()


@pytest.mark.slow
def test_three_failures_in_a_row_stop_it(folder, monkeypatch):
    monkeypatch.setattr(Fail, "seeds", (0, 1, 2))
    done = call(folder, "--seeds", 6, "--config", "sums.yaml")
    assert done.code == 1
    assert "error: 3 of 3 failed, 3 in a row: the others were not begun." in done.err
    assert len(list(folder.glob("runs/sums/repeat_0/version_*"))) == 3


def test_ctrl_c_ends_it_in_good_order_and_a_config_that_was_edited_since_does_not_count(seeds, folder, monkeypatch):
    monkeypatch.setattr(stopping.Stop, "at", ("on_train_batch_end", 20))
    monkeypatch.setattr(stopping.Stop, "action", lambda: signal.raise_signal(signal.SIGINT))
    made = folder / "runs/sums/repeat_0"
    done = call(folder, "--seeds", *SEEDS, "--config", "sums.yaml")
    assert done.code == 130
    assert "stopped; resume with: python -m src repeat --resume runs/sums/repeat_0" in done.err
    assert not (made / "version_1").exists()
    monkeypatch.setattr(stopping.Stop, "at", None)
    (folder / "sums.yaml").write_text((folder / "sums.yaml").read_text().replace("lr: 0.01", "lr: 0.5"))
    assert call(folder, "--resume", made).code == 0
    assert_equal(made, seeds[1])


def test_a_fit_that_died_before_its_first_checkpoint_begins_anew(seeds, folder):
    made = folder / "runs/sums/repeat_0"
    shutil.copytree(seeds[1], made)
    shutil.rmtree(made / "version_1/checkpoints")  # its metrics.csv is of a run that nobody can go on with
    (made / "version_1/summary.json").unlink()
    assert call(folder, "--resume", made).code == 0
    assert_equal(made, seeds[1])


def test_two_processes_do_not_work_on_one_repeat(seeds):
    with FileLock(seeds[1] / ".lock"):
        done = call(seeds[1], "--resume", ".")
    assert done.code == 1
    assert done.err == "error: another process works on .: wait for it, or end it.\n"


SUMS = "--config sums.yaml"


@pytest.mark.parametrize(
    ("args", "said"),
    [
        ("", "one of the arguments --seeds --folds --resume is required"),
        ("--seeds 2 --folds 2", "argument --folds: not allowed with argument --seeds"),
        (f"--seeds two {SUMS}", "--seeds two: name how many"),
        (f"--seeds 0 {SUMS}", "--seeds 0: name how many"),
        (f"--seeds 3 3 {SUMS}", "or different ones from 0 to 4294967295"),
        (f"--seeds 1 5000000000 {SUMS}", "or different ones from 0 to 4294967295"),
        ("--seeds 3", "name the YAML of an experiment first"),
        (f"--folds 1 {SUMS}", "--folds 1 must be at least 2"),
        ("--folds x", "argument --folds: invalid int value: 'x'"),
        ("--resume nowhere", "--resume nowhere is no repeat"),
        ("--resume nowhere --trainer.max_epochs 3", "leave out --trainer.max_epochs 3"),
        (f"--seeds 2 {SUMS} --seed_everything 7", "--seeds sets --seed_everything: leave it out"),
        (f"--folds 2 {SUMS} --data.fold=[0,2]", "--folds sets --data.fold: leave it out"),
        (f"--seeds 2 {SUMS} --ckpt_path last.ckpt", "--ckpt_path: a repeat begins new runs."),
        (f"--seeds 2 {SUMS} --print_config", "repeat prints no config"),
        (f"--folds 2 {SUMS} --test_after_fit=true", "repeat sets it"),
        (f"--seeds 2 {SUMS} --trainer.max_epoch 3", "Did you mean trainer.max_epochs?"),
        (f"--seeds 2 {SUMS} --trainer.fast_dev_run true", "a repeat needs checkpoints"),
        (f"--folds 2 {SUMS} --data tests.stopping.Sums", "tests.stopping.Sums has no folds."),
        (f"--seeds 2 {SUMS} --experiment=a::b", "a folder of runs cannot have `::` in its path"),
    ],
)
def test_a_mistake_is_refused_in_a_line_before_anything_runs(args, said, folder):
    done = call(folder, *args.split())
    assert done.code > 0
    (line,) = [line for line in done.err.splitlines() if line.startswith("error: ")]
    assert said in line
    assert "Traceback" not in done.err
    assert not (folder / "runs").exists()


@pytest.mark.parametrize("words", [["1", "7", "9"], ["1,7,9"], ["[1, 7, 9]"], ["1,", "7,", "9"]])
def test_seeds_are_a_list_in_any_form(words):
    assert repeat.read_seeds(words) == [1, 7, 9]
    assert repeat.read_seeds(["3"]) == [0, 1, 2]


def test_unused_folds_are_reported_and_nothing_is_lost(folder):
    done = call(folder, "--folds", 3, *ONCE, "--data.deaf", "true")
    assert done.code == 1
    assert re.search(r"^error: row \d+ validates in fold 0 and in fold 1", done.err, re.MULTILINE)
    made = folder / "runs/sums/repeat_0"
    assert yaml.safe_load((made / "summary.yaml").read_text())["folds"] == [0, 1, 2]
    assert not (made / "out_of_fold.csv").exists()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--trainer.limit_val_batches", 1], "Folded.val_rows has 32 rows, val_dataloader gives 4"),
        (["--data.mask", "true"], "Folded.val_rows must be the row numbers of val_dataloader"),
        (["--data.shuffle", "true"], "val_dataloader shuffles"),
        ([], "LitModule.predict_step ended with ValueError: for x alone"),
    ],
)
def test_without_predictions_no_metric_is_lost(options, said, folder, monkeypatch):
    def predict_step(self, batch, batch_idx):
        raise ValueError("for x\nalone")

    if not options:
        monkeypatch.setattr(LitModule, "predict_step", predict_step)
    done = call(folder, "--folds", 2, *ONCE, *options)
    assert done.code == 0, done.err
    assert done.err.count(f"note: no out_of_fold.csv: {said}") == 2
    assert len(numbers(folder / "runs/sums/repeat_0/results.csv")) == 2
    assert not list(folder.rglob("out_of_fold.csv"))


def test_predict_step_may_take_the_batch_alone_and_return_several_numbers(folder, monkeypatch):
    monkeypatch.setattr(LitModule, "predict_step", lambda self, batch: {"sum": batch[0].sum(dim=1), "x": batch[0]})
    done = call(folder, "--folds", 2, *ONCE)
    assert done.code == 0, done.err
    rows = table(folder / "runs/sums/repeat_0/out_of_fold.csv")
    assert [*rows[0]][:4] == ["row", "fold", "sum", "x_0"]
    assert [float(row["sum"]) for row in rows] == pytest.approx(Folded().data[1].flatten().tolist(), rel=1e-5)


def test_a_config_that_was_fixed_counts_where_no_fit_has_a_checkpoint(folder):
    fixed = (folder / "sums.yaml").read_text()
    (folder / "sums.yaml").write_text(fixed.replace("lr: 0.01", "lr: 1.0e+30"))
    done = call(folder, "--seeds", 2, *ONCE)
    assert "error: 2 of 2 failed. The last one: The loss is " in done.err
    assert "off. After fixing it: python -m src repeat --resume " in done.err
    (folder / "sums.yaml").write_text(fixed)
    done = call(folder, "--resume", "runs/sums/repeat_0")
    assert done.code == 0, done.err
    assert len(numbers(folder / "runs/sums/repeat_0/results.csv")) == 2


@pytest.mark.slow
def test_kills_at_any_moment_change_no_result(seeds, folder):
    made = folder / "runs/sums/repeat_0"
    moments = (
        "on_train_batch_end:3",  # before the first checkpoint
        "on_train_batch_end:20",
        "best.ckpt:2",
        "on_train_batch_end:30",  # the first has fewer batches left: amid the second
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
def test_folds_on_two_processes_predict_each_row_once(folder):
    options = (*processes(2), "--trainer.max_epochs", "2")
    done = run_process("repeat", "--folds", 2, "--config", "sums.yaml", *options, cwd=folder)
    made = folder / "runs/sums/repeat_0"
    assert done.returncode == 0, done.stderr
    assert [int(row["row"]) for row in table(made / "out_of_fold.csv")] == list(range(64))
    assert len(numbers(made / "results.csv")) == 2
    for number in range(2):
        assert json.loads((made / f"version_{number}/summary.json").read_text())["processes"] == 2


@pytest.mark.slow
def test_a_signal_ends_the_two_processes_of_a_fit_and_a_resume_goes_on(folder):
    made = folder / "runs/sums/repeat_0"
    options = processes(2)
    stop = os.environ | {"STOP": "SIGTERM:on_train_batch_end:8"}
    done = run_process("repeat", "--seeds", 1, "--config", "sums.yaml", *options, cwd=folder, env=stop)
    assert done.returncode == 128 + signal.SIGTERM, done.stderr
    assert "stopped; resume with: python -m src repeat --resume runs/sums/repeat_0" in done.stderr
    done = run_process("repeat", "--resume", made, cwd=folder)
    assert done.returncode == 0, done.stderr
    assert len(numbers(made / "results.csv")) == 1


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="reads the memory from /proc")
def test_memory_does_not_grow_with_the_number_of_fits(folder):
    def resident() -> int:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    call(folder, "--seeds", 10, *ONCE)
    before = resident()
    done = call(folder, "--seeds", 40, *ONCE)
    assert done.code == 0, done.err
    assert resident() - before < 20 << 20
