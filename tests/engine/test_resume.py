"""A run that was stopped anywhere and goes on ends with the same bits as one that never was."""

import functools
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from lightning.pytorch.utilities import CombinedLoader
from torch.utils.data import DataLoader, IterableDataset, Sampler, TensorDataset

from src.module import LitModule
from tests import warm
from tests.conftest import CONFIGS, PROJECT, SMALL, digest, run_process
from tests.stopping import Sums, config, fit, resume, rows, run_differences, run_main

EARLY = {
    "class_path": "lightning.pytorch.callbacks.EarlyStopping",
    "init_args": {"monitor": "val/loss", "patience": 2, "min_delta": 0.3},
}
PLATEAU = (
    "lightning.pytorch.cli.ReduceLROnPlateau",
    {"monitor": "val/loss", "patience": 0, "factor": 0.5, "threshold": 0.5},
)
ONE_CYCLE = ("torch.optim.lr_scheduler.OneCycleLR", {"max_lr": 0.1, "total_steps": None})
STEP = ("torch.optim.lr_scheduler.StepLR", {"step_size": 1, "gamma": 0.5})
CASES: dict[str, dict[str, Any]] = {
    "plain": config(),
    "accumulation": config(accumulate_grad_batches=5, every_n_steps=1),
    "validation amid an accumulation": config(accumulate_grad_batches=4, val_check_interval=5, every_n_steps=1),
    "validation amid an epoch": config(val_check_interval=5),
    "validation and checkpoint at one step": config(val_check_interval=4, every_n_steps=2),
    "validation every second epoch": config(check_val_every_n_epoch=2, max_epochs=5),
    "validation across epochs": config(check_val_every_n_epoch=None, val_check_interval=17, max_epochs=4),
    "some batches": config(limit_train_batches=7),
    "max_steps": config(max_steps=29, max_epochs=-1),
    "max_steps without validation": config(max_steps=29, max_epochs=-1, limit_val_batches=0),
    "max_steps and a validation now and then": config(max_steps=40, max_epochs=-1, check_val_every_n_epoch=2),
    "max_steps and validation across epochs": config(
        max_steps=40, max_epochs=-1, check_val_every_n_epoch=None, val_check_interval=17
    ),
    "one-cycle": config(scheduler=ONE_CYCLE, interval="step"),
    "step": config(scheduler=STEP),
    "plateau": config(scheduler=PLATEAU, max_epochs=6),
    "plateau and max_steps": config(scheduler=PLATEAU, max_steps=68, max_epochs=-1),
    "early stopping": config(callbacks=(EARLY,), max_epochs=10),
    "early stopping amid an epoch": config(callbacks=(EARLY,), max_epochs=10, val_check_interval=3, every_n_steps=3),
    "early stopping put off": config(
        callbacks=(EARLY,), max_epochs=10, min_epochs=2, val_check_interval=3, every_n_steps=3
    ),
}
OFTEN = ("accumulation", "validation amid an epoch", "max_steps", "plateau", "early stopping amid an epoch")
STOPS = [
    ("on_train_batch_start", 3),
    ("on_train_batch_end", 7),
    ("on_train_batch_end", 12),
    ("on_train_batch_start", 13),
    ("on_train_batch_end", 17),
    ("on_validation_batch_end", 2),
    ("on_validation_end", 1),
    ("on_validation_end", 2),
    ("on_train_epoch_end", 1),
    ("on_train_epoch_end", 2),
    ("on_train_epoch_start", 2),
    ("on_train_epoch_start", 3),
    ("on_train_batch_end", 30),
    ("on_train_end", 1),
]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """The run of a case that nothing stops, made once."""
    return functools.cache(lambda case: fit(tmp_path_factory.mktemp("whole"), CASES[case]))


def check(case: str, stop: tuple[str, int], whole: Path, tmp_path: Path) -> None:
    run = fit(tmp_path / "stopped", CASES[case], stop)
    if not (run / "checkpoints/last.ckpt").exists():
        return  # stopped before there was one
    assert resume(run) == 0
    assert run_differences(whole, run) == []


@pytest.mark.parametrize(
    "case", [case if case in OFTEN else pytest.param(case, marks=pytest.mark.slow) for case in CASES]
)
def test_a_stopped_run_ends_with_the_same_bits(case, undisturbed, tmp_path):
    check(case, ("on_train_batch_end", 17), undisturbed(case), tmp_path)


@pytest.mark.parametrize("stop", STOPS[1::2], ids=lambda stop: f"{stop[0]}-{stop[1]}")
def test_wherever_it_is_stopped(stop, undisturbed, tmp_path):
    check("plain", stop, undisturbed("plain"), tmp_path)


# Every fourth pair: each case at three or four stops, each stop in four or five cases.
PAIRS = [(case, stop) for k, case in enumerate(CASES) for n, stop in enumerate(STOPS) if (k + n) % 4 == 0]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("case", "stop"), PAIRS, ids=lambda value: value if isinstance(value, str) else "-".join(map(str, value))
)
def test_each_case_wherever_it_is_stopped(case, stop, undisturbed, tmp_path):
    check(case, stop, undisturbed(case), tmp_path)


@pytest.mark.parametrize(
    "case", ["plain", "validation amid an accumulation", "early stopping amid an epoch", "plateau"]
)
def test_from_the_best_checkpoint_in_a_new_folder_with_the_rows_before_it(case, undisturbed, tmp_path):
    run = fit(tmp_path / "stopped", CASES[case], ("on_train_batch_end", 17))
    if not (run / "checkpoints/best.ckpt").exists():
        run = fit(tmp_path / "whole", CASES[case])
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    assert resume(run / "checkpoints/best.ckpt") == 0
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before
    assert run_differences(undisturbed(case), run.parent / "version_1") == []


def test_the_best_checkpoint_comes_along_when_no_later_one_is_better(tmp_path):
    worse = config(max_epochs=4, scheduler=STEP)
    worse["checkpoint"] |= {"monitor": "val/mae", "mode": "max"}
    whole = fit(tmp_path, worse)
    best = whole / "checkpoints/best.ckpt"
    assert torch.load(best, weights_only=True)["epoch"] == 0
    assert resume(best) == 0
    assert run_differences(whole, whole.parent / "version_1") == []


class Told(Sums):
    """Notes in which epochs its loaders are asked for."""

    epochs: ClassVar[list[int]] = []

    def train_dataloader(self) -> Any:
        assert self.trainer is not None
        self.epochs.append(self.trainer.current_epoch)
        return super().train_dataloader()


def test_loaders_are_reloaded_in_the_same_epochs_after_a_resume(tmp_path):
    told = config(max_epochs=7, reload_dataloaders_every_n_epochs=3)
    told["data"] = {"class_path": "tests.engine.test_resume.Told"}
    Told.epochs.clear()
    fit(tmp_path / "whole", told)
    assert Told.epochs == [0, 3, 6]
    run = fit(tmp_path / "stopped", told, ("on_train_batch_end", 50))
    Told.epochs.clear()
    assert resume(run) == 0
    assert Told.epochs == [4, 6]  # the first time to go on at all


class Drawn(IterableDataset):
    """A stream of unknown length that draws."""

    def __init__(self, num_rows: int) -> None:
        self.num_rows = num_rows

    def __iter__(self):
        for _ in range(self.num_rows):
            x = torch.randn(4)
            yield x, x.sum(dim=0, keepdim=True)


class SideBySide(Sums):
    """Trains on two streams of different lengths at once."""

    def __init__(self, mode: str) -> None:
        super().__init__()
        self.mode = mode

    def train_dataloader(self) -> Any:
        return CombinedLoader([DataLoader(Drawn(28), 4), DataLoader(Drawn(12), 4)], self.mode)


class OnBoth(LitModule):
    """Adds the losses of what there is."""

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        return sum(self.step(part).loss for part in batch if part is not None)


@pytest.mark.parametrize("stop", [3, 4, 5, 6, 12])
@pytest.mark.parametrize("mode", ["max_size_cycle", "max_size"])
def test_streams_of_different_lengths_go_on_side_by_side(mode, stop, tmp_path):
    made = config(every_n_steps=1, max_epochs=2)
    made["data"] = {"class_path": f"{__name__}.SideBySide", "init_args": {"mode": mode}}
    made["model"] = {"class_path": f"{__name__}.OnBoth", "init_args": made["model"]}
    whole = fit(tmp_path / "whole", made)
    run = fit(tmp_path / "stopped", made, ("on_train_batch_start", stop))
    assert resume(run) == 0
    assert run_differences(whole, run) == []


class Counts(Sampler):
    """Has a generator of its own, and knows how often it was asked."""

    def __init__(self) -> None:
        self.generator_of_numpy, self.asked = np.random.default_rng(0), 0

    def __len__(self) -> int:
        return 48

    def __iter__(self):
        self.asked += 1
        return iter(np.roll(self.generator_of_numpy.permutation(48), self.asked).tolist())


class ByCounts(Sums):
    """Leaves the order to such a sampler."""

    def train_dataloader(self) -> Any:
        return DataLoader(TensorDataset(*self.data), self.batch_size, sampler=Counts())


@pytest.mark.parametrize("every", [0, 2])
@pytest.mark.parametrize("stop", [7, 30, 37])
def test_a_sampler_that_keeps_count_goes_on(stop, every, tmp_path):
    made = config(max_epochs=4, reload_dataloaders_every_n_epochs=every)
    made["data"] = {"class_path": f"{__name__}.ByCounts"}
    whole = fit(tmp_path / "whole", made)
    run = fit(tmp_path / "stopped", made, ("on_train_batch_start", stop))
    assert resume(run) == 0
    assert run_differences(whole, run) == []


def test_stopped_again_and_again(undisturbed, tmp_path):
    run = fit(tmp_path, CASES["validation amid an epoch"], ("on_train_batch_end", 7))
    while resume(run, stop_at=("on_train_batch_end", 7)):
        pass
    assert run_differences(undisturbed("validation amid an epoch"), run) == []


def test_a_run_made_longer_is_the_longer_run(tmp_path):
    whole, run = fit(tmp_path / "5", config(max_epochs=5)), fit(tmp_path / "3", config(max_epochs=3))
    assert resume(run, "--trainer.max_epochs=5") == 0
    assert run_differences(whole, run) == []


@pytest.mark.parametrize("case", ["plain", "early stopping"])
def test_a_finished_run_stays_as_it_is(case, tmp_path):
    run = fit(tmp_path, CASES[case] | {"test_after_fit": True})
    before = (run / "checkpoints/last.ckpt").read_bytes(), rows(run)
    assert resume(run) == 0
    assert ((run / "checkpoints/last.ckpt").read_bytes(), rows(run)) == before


def test_what_a_kill_left_half_written_does_no_harm(undisturbed, tmp_path):
    run = fit(tmp_path, CASES["plain"], ("on_train_batch_end", 17))
    for part in ("checkpoints/.last.ckpt.part", "checkpoints/.best.ckpt.part", "metrics.part", "record.part"):
        (run / part).write_bytes(b"half a ")
    assert resume(run) == 0
    assert run_differences(undisturbed("plain"), run) == []


@pytest.mark.parametrize("seed", [0, 42])
def test_the_same_seed_gives_the_same_bits_twice(seed, tmp_path):
    runs = [fit(tmp_path / name, CASES["plain"] | {"seed_everything": seed}) for name in "ab"]
    assert run_differences(*runs) == []


def test_seed_0_is_a_seed(tmp_path):
    runs = [fit(tmp_path / str(seed), CASES["plain"] | {"seed_everything": seed}) for seed in (0, 1)]
    assert run_differences(*runs) != []


XOR = ["--config", SMALL, "--checkpoint.every_n_steps=37", "--trainer.callbacks+=tests.stopping.Stop"]
XOR_KILLS = [
    "on_train_batch_start:100",
    "last.ckpt:1",
    "last.ckpt:4",
    "metrics.csv:1",
    "on_validation_batch_end:1",
    "best.ckpt:1",
    "metrics.csv:2",
    "on_train_epoch_end:1",
    "on_train_epoch_start:2",
    "on_train_batch_end:333",
]
MNIST = [
    *("--config", CONFIGS / "mnist.yaml", "--checkpoint.every_n_steps=7", "--trainer.callbacks+=tests.stopping.Stop"),
    *("--trainer.max_epochs=3", "--trainer.limit_train_batches=40", "--trainer.val_check_interval=20"),
]
MNIST_KILLS = [
    "on_train_batch_end:9",
    "last.ckpt:1",
    "on_train_batch_end:6",
    "best.ckpt:1",
    "on_validation_batch_end:3",
    "metrics.csv:1",
    "last.ckpt:2",
    "on_train_epoch_start:2",
    "on_train_batch_end:25",
    "on_train_end:1",
]


def chain(command: list[Any], kills: list[str], folder: Path) -> int:
    """Kill a run at each of the points, one after the other, going on between; then let it end.

    Returns how many kills hit it before it came to its end.
    """
    env = os.environ | {"PYTHONPATH": str(PROJECT)}
    args, hits = ["fit", *command], 0
    for kill in kills:
        done = run_process(*args, cwd=folder, env=env | {"STOP": f"SIGKILL:{kill}"})
        assert done.returncode in (-9, 0), done.stderr
        hits += done.returncode == -9
        (run,) = folder.glob("runs/*/version_0")
        if (run / "checkpoints/last.ckpt").exists():
            args = ["fit", "--ckpt_path", str(run.relative_to(folder))]
        else:
            shutil.rmtree(folder / "runs")
    done = run_process(*args, cwd=folder, env=env)
    assert done.returncode == 0, done.stderr
    return hits


def whole(command: list[Any], folder: Path) -> Path:
    assert run_main(["fit", *map(str, command), f"--trainer.default_root_dir={folder}"]) == 0
    (run,) = folder.glob("*/version_0")
    return run


@pytest.mark.slow
def test_xor_killed_with_kill_9_goes_on_to_the_same_bits(tmp_path):
    assert chain(XOR, ["on_train_batch_end:777"], tmp_path) == 1
    assert run_differences(whole(XOR, tmp_path / "whole"), tmp_path / "runs/xor/version_0") == []


@pytest.mark.slow
def test_xor_killed_again_and_again_with_kill_9(tmp_path):
    assert chain(XOR, XOR_KILLS, tmp_path) == len(XOR_KILLS)
    assert run_differences(whole(XOR, tmp_path / "whole"), tmp_path / "runs/xor/version_0") == []


@pytest.mark.slow
def test_mnist_killed_again_and_again_with_kill_9(tmp_path, mnist):
    command = [*MNIST, *mnist.options]
    assert chain(command, MNIST_KILLS, tmp_path) == len(MNIST_KILLS)
    assert run_differences(whole(command, tmp_path / "whole"), tmp_path / "runs/mnist/version_0") == []


@pytest.mark.slow
def test_xor_killed_from_outside_at_some_moment_after_a_line(tmp_path):
    """The kill comes whenever the system delivers it: amid a step, a checkpoint or a row."""
    args = ["fit", *map(str, XOR), "--checkpoint.every_n_steps=2"]
    for line in ("at 250", "at 750", "at 1000", "at 1500"):
        process = warm.start(args, tmp_path, os.environ | {"PYTHONPATH": str(PROJECT), "TELL": "1"})
        assert process.stdout is not None
        assert any(text.startswith(line) for text in process.stdout)
        process.kill()
        process.stdout.close()
        assert process.wait() == -9
        args = ["fit", "--ckpt_path", "runs/xor/version_0"]
    assert chain(args[1:], [], tmp_path) == 0
    every_second = [*XOR, "--checkpoint.every_n_steps=2"]
    assert run_differences(whole(every_second, tmp_path / "whole"), tmp_path / "runs/xor/version_0") == []


@pytest.mark.slow
def test_eight_fits_started_at_once_get_eight_folders(tmp_path):
    short = ["--config", SMALL, "--trainer.max_epochs=1", "--data.passes=5"]
    processes = [
        warm.start(["fit", *short], tmp_path, os.environ | {"PYTHONPATH": str(PROJECT)}, stdout=subprocess.DEVNULL)
        for _ in range(8)
    ]
    assert [process.wait() for process in processes] == [0] * 8
    runs = sorted(tmp_path.glob("runs/xor/*"))
    assert [run.name for run in runs] == [f"version_{number}" for number in range(8)]
    for run in runs:
        assert len(rows(run)) == 2
        assert (run / "checkpoints/last.ckpt").is_file()


def test_a_schedule_over_a_number_of_steps_is_not_prolonged(tmp_path, capfd):
    one_cycle = ("torch.optim.lr_scheduler.OneCycleLR", {"max_lr": 0.01, "total_steps": None})
    run = fit(tmp_path, config(scheduler=one_cycle, interval="step"))
    before = digest(run / "checkpoints/last.ckpt")
    capfd.readouterr()
    assert resume(run, "--trainer.max_epochs=6") == 1
    err = capfd.readouterr().err
    assert "ends at step 36, with these options the run would go to 72" in err
    assert err.count("error:") == 1
    assert "Traceback" not in err
    assert digest(run / "checkpoints/last.ckpt") == before
