"""A split drawn without a seed of its own is one for the life of a run; an evaluation draws the same in each verb."""

import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch import Trainer, seed_everything
from torch.utils.data import DataLoader

from src.engine.data.adopt import adopt
from src.engine.data.seeding import random_state, seeded, set_random_state, settle_seed
from src.module import LitModule
from tests.engine import loader_tasks
from tests.processes import launch, processes
from tests.stopping import Sums, config, differences, fit, killed_at, resume, resume_diff, rows, run_differences


def split() -> list[list[int]]:
    order = torch.randperm(60).tolist()
    random.shuffle(order)
    np.random.shuffle(order)
    return [order[:40], order[40:50], order[50:]]


class Split(Sums):
    """Draws a split in each hook; whoever hands out a loader notes its rows in each of them."""

    def __init__(self):
        super().__init__()
        self.splits = {"__init__": split()}

    def prepare_data(self):
        Path("parts.json").write_text(json.dumps(split()))

    def setup(self, stage):
        self.splits |= {"setup": split(), "prepare_data": json.loads(Path("parts.json").read_text())}

    def loader(self, part):
        self.splits["loaders"] = split()
        with Path("parts.txt").open("a") as file:
            for where, parts in self.splits.items():
                print(json.dumps([where, part, sorted(parts[part])]), file=file)
        return self._loader(torch.tensor(self.splits["setup"][part]))

    def train_dataloader(self):
        return self.loader(0)

    def val_dataloader(self):
        return self.loader(1)

    def test_dataloader(self):
        return self.loader(2)

    predict_dataloader = test_dataloader


OPTIONS = (f"--data={__name__}.Split", "--test_after_fit=true", "--trainer.max_epochs=2")
RUN = "runs/sums/version_0"
HOOKS = ("prepare_data", "setup", "loaders")


def assert_one_split(*places):
    """Compare each part whenever a loader had it: always the same rows, none of which is in another part."""
    found = [json.loads(line) for line in Path("parts.txt").read_text().splitlines()]
    orders = set()
    for place in places:
        rows = [{tuple(rows) for where, each, rows in found if (where, each) == (place, part)} for part in range(3)]
        assert [len(different) for different in rows] == [1, 1, 1], place
        parts = [next(iter(different)) for different in rows]
        assert sorted(sum(parts, ())) == list(range(60))
        orders.add(parts[0])
    assert len(orders) == len(places)  # each draws numbers of its own


@pytest.mark.parametrize("seed", ["false", "${oc.env:SEED_OF_THE_DAY}"])
def test_no_row_that_trained_is_tested_with_a_seed_that_is_drawn_or_looked_up(fit_sums, cli, monkeypatch, seed):
    monkeypatch.setenv("SEED_OF_THE_DAY", "5")
    assert "draw the same random numbers" in fit_sums(*OPTIONS, f"--seed_everything={seed}").err
    monkeypatch.setenv("SEED_OF_THE_DAY", "6")
    if seed == "false":
        assert cli("fit", "--ckpt_path", RUN, "--trainer.max_epochs=3", "--seed_everything=7").code == 0
    assert cli("predict", "--ckpt_path", RUN, "--seed_everything=3").code == 0
    assert_one_split("__init__", *HOOKS)
    kept = torch.load(f"{RUN}/checkpoints/last.ckpt", weights_only=True)["config"]["seed_everything"]
    assert type(kept) is int
    # In a notebook the module brings the seed.
    module = LitModule.load_from_checkpoint(RUN)
    seed_everything(7)
    data = Split()
    trainer = Trainer(logger=False, accelerator="cpu", enable_progress_bar=False)
    adopt(trainer, module, data)
    trainer.test(module, data, verbose=False)
    assert_one_split(*HOOKS)


@pytest.mark.parametrize("start", [{"SLURM_JOB_ID": "7"}, {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500"}])
def test_processes_that_something_else_starts_draw_the_same_seed(start, monkeypatch):
    assert settle_seed(False) != settle_seed(False)
    monkeypatch.setenv("PL_GLOBAL_SEED", "1")  # of an earlier run in this process
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    for name, value in start.items():
        monkeypatch.setenv(name, value)
    drawn = []
    for rank in "01":
        monkeypatch.setenv("LOCAL_RANK", rank)
        drawn.append(settle_seed(rank == "0"))
    monkeypatch.setenv([*start][-1], "8")
    assert drawn[0] == drawn[1] != settle_seed(False)
    assert drawn[0] != 1


@pytest.mark.slow
def test_two_processes_and_one_have_the_same_rows(fit_sums, cli, tmp_path):
    launch("fit", "--config=sums.yaml", *OPTIONS, "--seed_everything=false", *processes(2), cwd=tmp_path)
    assert cli("test", "--ckpt_path", RUN).code == 0
    assert_one_split("__init__", *HOOKS)


def draw() -> list[float]:
    drawn = [random.random(), random.gauss(0, 1), np.random.rand(), np.random.normal(), torch.rand(()).item()]
    return drawn + [torch.rand((), device=f"cuda:{k}").item() for k in range(torch.cuda.device_count())]


def test_a_seeded_block_leaves_the_generators_as_they_were(tmp_path):
    torch.manual_seed(1), draw()
    torch.save(random_state(), tmp_path / "state.pt")
    state = torch.load(tmp_path / "state.pt", weights_only=True)
    expected = draw()
    set_random_state(state)
    with seeded(2**63 + 1):
        drawn = draw()
        with seeded(2**63 + 1):
            assert draw() == drawn
    assert draw() == expected


def test_in_a_notebook_each_hook_draws_numbers_of_its_own_and_the_same_with_a_second_trainer(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    data, found = Split(), []
    for seed in (5, 7):
        seed_everything(seed)
        trainer = Trainer(logger=False, accelerator="cpu", reload_dataloaders_every_n_epochs=1)
        adopt(trainer, data)
        data.prepare_data(), data.setup("fit"), data.train_dataloader()
        found.append([data.splits[hook] for hook in HOOKS])
        trainer.fit_loop.epoch_progress.current.completed = 1  # loaders that are made anew for an epoch
        trainer.fit_loop.epoch_progress.current.processed = 1
        data.train_dataloader()
        found[-1].append(data.splits["loaders"])
    first, second = found
    assert first == second
    assert len(set(map(str, first))) == 4
    # Processes without a common seed take that of rank zero.
    monkeypatch.setattr(trainer.strategy, "broadcast", lambda seed: 5)
    adopt(trainer, data, seed=7)
    data.setup("fit")
    assert data.run_seed == 5


class Data(loader_tasks.Task):
    def val_dataloader(self) -> Any:
        return [
            DataLoader(loader_tasks.Rows(13), self.batch_size),
            DataLoader(loader_tasks.Rows(9), self.batch_size, shuffle=True),
        ]

    def test_dataloader(self) -> Any:
        return DataLoader(loader_tasks.Rows(13), self.batch_size)

    predict_dataloader = test_dataloader


class Drawing(LitModule):
    """Its steps of evaluation add noise, and so does the end of an epoch."""

    def step(self, batch: Any) -> Any:
        return super().step(batch if self.training else (batch[0] + loader_tasks.noise(), batch[1]))

    def predict_step(self, batch: Any, batch_idx: int) -> Any:
        return super().predict_step((batch[0] + loader_tasks.noise(), batch[1]), batch_idx)

    def on_test_epoch_end(self) -> None:
        super().on_test_epoch_end()
        self.log("test/drawn", loader_tasks.noise().sum())


def experiment(**trainer: Any) -> dict[str, Any]:
    made = config(dropout=0.5, limit_train_batches=4, max_epochs=2, every_n_steps=3, **trainer)
    made["model"] = {"class_path": f"{__name__}.Drawing", "init_args": made["model"]}
    return made | {"data": {"class_path": f"{__name__}.Data", "init_args": {"form": "plain"}}, "test_after_fit": True}


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A run, and a copy of it as it was amid its second validation."""
    return killed_at(("on_validation_batch_end", 10), tmp_path_factory.mktemp("whole"), experiment())


def figures(run: Path, stage: str) -> dict[str, str]:
    """Return the latest numbers of a stage, with epoch and step."""
    *_, latest = (row for row in rows(run) if row.get(f"{stage}/loss"))
    return {name: value for name, value in latest.items() if name.startswith((stage, "epoch", "step")) and value}


def test_a_later_verb_draws_what_the_fit_drew(runs, cli):
    run, home = runs[0], "--trainer.default_root_dir=."
    assert cli("test", "--ckpt_path", run / "checkpoints/best.ckpt", home).code == 0
    assert cli("validate", "--ckpt_path", run, home).code == 0
    assert figures(Path("sums/version_0"), "test") == figures(run, "test")
    best = torch.load(run / "checkpoints/best.ckpt", weights_only=True)
    assert figures(run, "test")["step"] == str(best["global_step"])
    assert figures(Path("sums/version_1"), "val") == figures(run, "val")
    files = []
    for number, options in ((2, []), (3, ["--trainer.limit_predict_batches=2"])):
        assert cli("predict", "--ckpt_path", run, home, *options).code == 0
        files.append(Path(f"sums/version_{number}/predictions.csv").read_text().splitlines())
    assert files[1] == files[0][:9]


def test_training_does_not_notice_what_a_validation_draws(runs, tmp_path):
    both = runs[0], fit(tmp_path, experiment(limit_val_batches=0) | {"test_after_fit": False})
    states = [torch.load(run / "checkpoints/last.ckpt", weights_only=True)["state_dict"] for run in both]
    assert differences(*states) == []


def test_a_run_that_draws_in_its_validation_goes_on_to_the_same_bits(runs):
    whole, run = runs
    # Saved by the first validation, it holds the states of training.
    assert resume(run / "checkpoints/best.ckpt", f"--trainer.default_root_dir={run.parent.parent}") == 0
    assert run_differences(whole, run.parent / "version_1") == []
    assert resume_diff(whole, run) == []
