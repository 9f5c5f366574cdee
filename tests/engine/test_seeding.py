"""A split that is drawn without a seed of its own is one split for the life of a run."""

import importlib
import json
import random

import numpy as np
import pytest
import torch
from lightning.pytorch import LightningDataModule, Trainer, seed_everything

from src.engine.data.adopt import adopt
from src.engine.data.seeding import random_state, seeded, set_random_state, settle_seed
from src.module import LitModule
from tests.conftest import PROJECT
from tests.processes import launch, processes

# Each row's number is its only feature; whoever hands out a loader notes which rows it has.
PACKAGE = """
import json
import random

import numpy as np
import torch
from lightning.pytorch import LightningDataModule
from torch.utils.data import DataLoader, Subset, TensorDataset


class Split(LightningDataModule):
    def __init__(self, where: str = "setup") -> None:
        super().__init__()
        self.where = where
        self.draw("__init__")

    def draw(self, where):
        if where == self.where:
            order = torch.randperm(60).tolist()
            random.shuffle(order)
            np.random.shuffle(order)
            self.parts = [order[:40], order[40:50], order[50:]]

    def prepare_data(self):
        self.draw("prepare_data")
        if self.where == "prepare_data":
            with open("parts.json", "w") as file:
                json.dump(self.parts, file)

    def setup(self, stage):
        self.draw("setup")
        if self.where == "prepare_data":
            with open("parts.json") as file:
                self.parts = json.load(file)

    def loader(self, part, **options):
        self.draw("loaders")
        with open("parts.txt", "a") as file:
            print(json.dumps([part, sorted(self.parts[part])]), file=file)
        x = torch.arange(60.0)[:, None]
        return DataLoader(Subset(TensorDataset(x, (x > 30).float()), self.parts[part]), batch_size=10, **options)

    def train_dataloader(self):
        return self.loader(0, shuffle=True)

    def val_dataloader(self):
        return self.loader(1)

    def test_dataloader(self):
        return self.loader(2)

    predict_dataloader = test_dataloader
"""
CONFIG = """
model:
  net: {class_path: torch.nn.Linear, init_args: {in_features: 1, out_features: 1}}
  loss: {class_path: torch.nn.BCEWithLogitsLoss}
  optimizer: {class_path: torch.optim.SGD, init_args: {lr: 0.01}}
data: {class_path: splits.Split}
trainer: {max_epochs: 2, accelerator: cpu}
test_after_fit: true
"""
LAST = "runs/split/version_0"


@pytest.fixture
def splits(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=":")
    (tmp_path / "splits.py").write_text(PACKAGE)
    (tmp_path / "split.yaml").write_text(CONFIG)
    return tmp_path


def parts(folder):
    """The rows of training, validation and test; each the same whenever a loader had it, none in two of them."""
    found = [json.loads(line) for line in (folder / "parts.txt").read_text().splitlines()]
    rows = {part: {tuple(rows) for each, rows in found if each == part} for part in (0, 1, 2)}
    assert [len(different) for different in rows.values()] == [1, 1, 1]
    train, val, test = (set(next(iter(different))) for different in rows.values())
    assert len(train | val | test) == 60
    return train, val, test


@pytest.mark.parametrize("where", ["prepare_data", "loaders"])
def test_no_row_that_trained_is_tested(splits, cli, where):
    done = cli("fit", "--config", "split.yaml", f"--data.where={where}")
    assert done.code == 0, done.err
    assert ("draw the same random numbers" in done.err) == (where == "loaders")
    assert cli("test", "--ckpt_path", LAST, "--seed_everything=3").code == 0
    parts(splits)


@pytest.mark.parametrize(("seed", "where"), [("false", "__init__"), ("${oc.env:SEED_OF_THE_DAY}", "setup")])
def test_a_seed_that_is_drawn_or_looked_up_is_kept(splits, cli, monkeypatch, seed, where):
    monkeypatch.setenv("SEED_OF_THE_DAY", "5")
    assert cli("fit", "--config", "split.yaml", f"--data.where={where}", f"--seed_everything={seed}").code == 0
    monkeypatch.setenv("SEED_OF_THE_DAY", "6")
    assert cli("fit", "--ckpt_path", LAST, "--trainer.max_epochs=3").code == 0
    assert cli("predict", "--ckpt_path", LAST, "--seed_everything=false").code == 0
    parts(splits)
    kept = torch.load(f"{LAST}/checkpoints/last.ckpt", weights_only=True)["config"]["seed_everything"]
    assert type(kept) is int


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
def test_two_processes_and_one_have_the_same_rows(splits, cli):
    options = ["fit", "--config", "split.yaml", "--seed_everything=false", "--data.where=__init__", *processes(2)]
    launch(*options, cwd=splits, PYTHONPATH=f"{PROJECT}:{splits}")
    assert cli("test", "--ckpt_path", LAST).code == 0
    parts(splits)


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


class Rows(LightningDataModule):
    """Draws its rows in a hook."""

    def setup(self, stage):
        self.rows = torch.randperm(100)

    def prepare_data(self):
        self.prepared = torch.randperm(100)

    def train_dataloader(self):
        self.drawn = torch.randperm(100)
        return []


def test_in_a_notebook_each_hook_draws_numbers_of_its_own_and_the_same_with_a_second_trainer():
    data, found = Rows(), []
    for seed in (5, 7):
        seed_everything(seed)
        trainer = Trainer(logger=False, accelerator="cpu", reload_dataloaders_every_n_epochs=1)
        adopt(trainer, data)
        data.prepare_data(), data.setup("fit"), data.train_dataloader()
        found.append([data.prepared, data.rows, data.drawn])
        trainer.fit_loop.epoch_progress.current.completed = 1  # loaders that are made anew for an epoch
        trainer.fit_loop.epoch_progress.current.processed = 1
        data.train_dataloader()
        found[-1].append(data.drawn)
    first, second = ([tuple(rows.tolist()) for rows in each] for each in found)
    assert first == second
    assert len(set(first)) == 4


def test_in_a_notebook_the_module_of_a_run_brings_its_seed(splits, cli):
    assert cli("fit", "--config", "split.yaml", "--seed_everything=12").code == 0
    module = LitModule.load_from_checkpoint(LAST)
    seed_everything(7)
    data = importlib.import_module("splits").Split()
    trainer = Trainer(logger=False, accelerator="cpu", enable_progress_bar=False)
    adopt(trainer, module, data)
    trainer.test(module, data, verbose=False)
    parts(splits)
