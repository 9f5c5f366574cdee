"""A run over any loader that was stopped in any way ends with the same bits as one that never was."""

import csv
import functools
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader, IterableDataset

from src.engine.data.loaders import StreamLoader
from src.engine.data.order import Role
from tests.processes import IN_DOUBLE, assert_equal_runs, finish, launch, processes, start
from tests.stopping import behind, config, fit, killed_at, resume_diff, rows, run_differences, run_main, write

# Where a run of 12 steps an epoch, with a checkpoint at each fifth step and between epochs, is stopped.
STOPS = {
    "amid": [("SIGKILL", "on_train_batch_end", 17)],
    "between": [("SIGKILL", "on_train_batch_start", 13)],
    "twice": [("SIGKILL", "on_train_batch_end", 8), ("SIGKILL", "on_train_batch_end", 11)],
    "sigterm": [("SIGTERM", "on_train_batch_start", 8)],
}
# Each form in one way, each way with several forms.
MATRIX = {
    "plain": "twice",
    "subclass": "amid",
    "persistent": "between",
    "weighted": "sigterm",
    "buckets": "between",
    "stream": "amid",
    "stream-with-state": "twice",
    "stream-with-workers": "sigterm",
    "dict": "between",
    "short-loader-and-streams": "sigterm",
}
ON_TWO_PROCESSES = [("two-workers", "between"), ("buckets", "amid"), ("loader-and-streams", "twice")]


def experiment(form: str = "plain", dropout: float = 0.5, **data: Any) -> dict[str, Any]:
    made = config(dropout=dropout)
    made["model"] = {"class_path": "tests.engine.loader_tasks.Several", "init_args": made["model"]}
    return made | {"data": {"class_path": "tests.engine.loader_tasks.Task", "init_args": {"form": form} | data}}


def stop_again_and_again(folder: Path, made: dict[str, Any], kind: str, *options: str) -> Path:
    """Start a run in processes of its own and stop it, going on between; returns its folder."""
    run = folder / "runs/sums/version_0"
    args = ["--config", str(write(folder, made)), f"--trainer.default_root_dir={folder / 'runs'}", *options]
    for number, (name, hook, calls) in enumerate(STOPS[kind]):
        done = finish(start("fit", *args, cwd=folder, STOP=f"{name}:{hook}:{calls}"))
        assert done.returncode == (-9 if name == "SIGKILL" else 143), done.stderr
        assert (run / "checkpoints/last.ckpt").exists()
        if name == "SIGKILL" and number:  # it went on after the kill before
            assert torch.load(run / "checkpoints/last.ckpt", weights_only=True)["global_step"] > 10
        args = ["--ckpt_path", str(run)]
    return run


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    return functools.cache(lambda form: fit(tmp_path_factory.mktemp("whole"), experiment(form)))


@pytest.mark.parametrize(
    ("form", "trainer", "stops"),
    [
        # Amid the third cycle of the short loader; then between epochs.
        ("short-loader-and-streams", {}, [("on_train_batch_end", 23), ("on_train_batch_start", 5)]),
        # With a number of batches Lightning fetches none in advance, and an epoch ends amid the streams.
        ("loader-and-streams", {"limit_train_batches": 7}, [("on_train_batch_end", 6), ("on_train_batch_start", 3)]),
        ("combined", {"max_epochs": 2}, [("on_train_batch_start", 6)]),
        ("counts", {"max_epochs": 4, "reload_dataloaders_every_n_epochs": 2}, [("on_train_batch_start", 20)]),
    ],
)
def test_a_stopped_run_ends_with_the_same_bits(form, trainer, stops, tmp_path):
    made = experiment(form)
    made["trainer"] |= trainer
    whole, run = killed_at(stops[0], tmp_path, made)
    assert resume_diff(whole, run, stops=stops[1:]) == []


class Counts(IterableDataset[int]):
    count = 0

    def __iter__(self) -> Iterator[int]:
        for _ in range(3):
            self.count += 1
            yield self.count

    def state_dict(self) -> dict[str, int]:
        return {"count": self.count}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.count = state["count"]


def test_a_stream_that_was_exhausted_begins_again_or_not_until_the_next_epoch():
    made, resumed = (StreamLoader(DataLoader(Counts(), batch_size=None), Role()) for _ in range(2))
    assert [list(behind(made, fetched)) for fetched in (0, 3)] == [[1, 2, 3], [4, 5, 6]]
    state = behind(made, 8).state_dict()
    behind(resumed, 8, cycles=False).load_state_dict(state)  # beside a longer loader
    assert list(resumed) == []
    assert list(behind(resumed, 0)) == [7, 8, 9]


@pytest.mark.slow
@pytest.mark.parametrize(("form", "kind"), MATRIX.items())
def test_a_run_stopped_from_without_ends_with_the_same_bits(form, kind, undisturbed, tmp_path):
    run = stop_again_and_again(tmp_path, experiment(form), kind)
    assert resume_diff(undisturbed(form), run) == []


@pytest.mark.slow
@pytest.mark.parametrize(("form", "kind"), ON_TWO_PROCESSES)
def test_two_processes_stopped_from_without_end_with_the_same_bits(form, kind, tmp_path):
    made = experiment(form, batch_size=2)
    run = stop_again_and_again(tmp_path / "stopped", made, kind, *processes(2))
    launch("fit", "--ckpt_path", run, cwd=tmp_path)
    whole = ("--config", write(tmp_path / "whole", made), *processes(2), "--trainer.default_root_dir=whole")
    launch("fit", *whole, cwd=tmp_path)
    assert rows(run)[-1]["step"] == "36"
    assert run_differences(tmp_path / "whole/sums/version_0", run) == []


@pytest.mark.slow
def test_three_processes_train_like_one_where_the_last_row_is_for_one_alone(tmp_path):
    """The 16th batch has two rows: the third process has none."""
    for number in (1, 3):
        file = write(tmp_path / str(number), experiment(dropout=0.0, batch_size=3 // number))
        options = (*IN_DOUBLE, *processes(number), f"--trainer.default_root_dir={file.parent}")
        launch("fit", "--config", file, *options, cwd=tmp_path)
    assert_equal_runs(tmp_path / "1/sums/version_0", tmp_path / "3/sums/version_0", 1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("form", ["buckets", "items"])
def test_three_processes_evaluate_each_sample_once_as_one_does(form, undisturbed, tmp_path):
    for verb in ("test", "predict"):
        command = [verb, "--ckpt_path", str(undisturbed(form) / "checkpoints/best.ckpt")]
        assert run_main([*command, f"--trainer.default_root_dir={tmp_path / 'one'}"]) == 0
        launch(*command, *processes(3), "--trainer.default_root_dir=three", cwd=tmp_path)
    one, three = (tmp_path / f"{name}/sums" for name in ("one", "three"))
    expected, figures = ({k: float(v) for k, v in rows(each / "version_0")[-1].items() if v} for each in (one, three))
    assert expected.keys() >= {"test/loss", "test/mae"}
    assert figures == pytest.approx(expected, rel=1e-6)
    expected, found = (list(csv.DictReader((each / "version_1/predictions.csv").open())) for each in (one, three))
    assert [row["sample"] for row in found] == [str(sample) for sample in range({"buckets": 47, "items": 28}[form])]
    scores = [[float(row["score"]) for row in table] for table in (expected, found)]
    assert scores[1] == pytest.approx(scores[0], rel=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("place", ["item", "collate", "worker"])
def test_a_mistake_in_the_users_data_ends_the_run_at_once_with_its_traceback(place, tmp_path):
    file = write(tmp_path, experiment(f"broken-{place}"))
    # The workers hold its standard error open, too: none of them is left when it ends.
    done = finish(start("fit", "--config", file, cwd=tmp_path), timeout_s=60)
    assert done.returncode == 1, done.stderr
    before, _, after = done.stderr.partition('KeyError: "the user\'s own mistake"\n')
    assert any("tests/engine/loader_tasks.py" in line for line in before.splitlines()[-6:]), done.stderr
    assert "\n" not in after.strip(), done.stderr  # one line: where the run lies


@pytest.mark.slow
@pytest.mark.parametrize(("name", "code", "number"), [("SIGINT", 130, 1), ("SIGTERM", 143, 2)])
def test_a_signal_to_a_job_comes_twice_and_finds_the_workers_alive_until_the_run_is_saved(name, code, number, tmp_path):
    file = write(tmp_path, experiment("persistent", batch_size=4 // number))
    options = ("--trainer.max_epochs=100000", "--trainer.enable_progress_bar=true", *processes(number))
    process = start("fit", "--config", file, *options, cwd=tmp_path, new_session=True)
    # The line of the third epoch comes when that of the second is saved.
    assert any(line.startswith("epoch 3/") for line in process.stdout)
    os.killpg(process.pid, getattr(signal, name))
    said = next((line for line in process.stderr if "go on with" in line), "")
    os.killpg(process.pid, getattr(signal, name))
    done = finish(process, timeout_s=60)
    assert done.returncode == code, said + done.stderr
    assert "Traceback" not in said + done.stderr
    step = torch.load(tmp_path / "runs/sums/version_0/checkpoints/last.ckpt", weights_only=True)["global_step"]
    assert said.startswith(f"{name} at step {step}; go on with: python -m src fit --ckpt_path")
