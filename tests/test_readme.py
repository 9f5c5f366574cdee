"""The README is short, its map is right, and its commands run: each block marked `sh`, in order, in a copy."""

import csv
import os
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
from lightning.pytorch import LightningDataModule
from PIL import Image
from torch.utils.data import DataLoader
from torchvision.datasets import MNIST

from src.engine import always_on
from tests.conftest import PROJECT, Mnist
from tests.copies import copy_of_project, lint, python

README = (PROJECT / "README.md").read_text()
BLOCKS = re.findall(r"^```sh\n(.*?)^```", README, re.MULTILINE | re.DOTALL)
# A reader's own files: the first line says where.
FILES = dict(re.findall(r"^```(?:python|yaml)\n# ([\w./]+)\n(.*?)^```", README, re.MULTILINE | re.DOTALL))
# The map of the project: a line for each entry, whose folder is told by its indentation, and a phrase.
(MAP,) = re.findall(r"^```text\n(src/\n.*?)^```", README, re.MULTILINE | re.DOTALL)
# The tests themselves, and what takes minutes.
LEFT_OUT = ("make test", "python -m pytest", "make bench")


def write_files(project: Path) -> None:
    for name, text in FILES.items():
        (project / name).parent.mkdir(exist_ok=True)
        (project / name).write_text(text)


@pytest.mark.slow
def test_every_command_of_the_readme_runs(tmp_path: Path, mnist: Mnist) -> None:
    project = copy_of_project(tmp_path / "project")
    if not (PROJECT / ".venv" / "ready").exists():
        pytest.skip("needs the .venv that `make setup` makes")
    if not mnist.real:
        pytest.skip("needs the real MNIST under data/")
    (project / ".venv").symlink_to(PROJECT / ".venv")
    shutil.copytree(mnist.root, project / "data")
    data = MNIST(mnist.root, train=False)
    Image.fromarray(255 - data.data[0].numpy()).resize((280, 280)).save(project / "digit.png")
    write_files(project)
    for name in ("requirements.lock", "pyproject.toml"):
        os.utime(project / name, (0, 0))  # older than the .venv, whenever they were checked out
    assert len(BLOCKS) >= 6
    for block in BLOCKS:
        lines = [line for line in block.splitlines() if not line.startswith(LEFT_OUT)]
        script = "\n".join(["set -e", *lines])
        # The second block activates .venv for the rest of a user's shell.
        path = f"{project / '.venv' / 'bin'}{os.pathsep}{os.environ['PATH']}"
        env = os.environ | {"OMP_NUM_THREADS": str(torch.get_num_threads()), "PATH": path}
        done = subprocess.run(["bash", "-c", script], cwd=project, capture_output=True, text=True, env=env)
        assert done.returncode == 0, f"{block}\n{done.stdout}\n{done.stderr}"


@pytest.mark.slow
def test_the_plots_in_the_picture_of_the_readme_are_those_of_a_fit(tmp_path: Path) -> None:
    fit = python("-m", "src", "fit", "--config", PROJECT / "configs/xor.yaml", cwd=tmp_path)
    assert fit.returncode == 0, fit.stderr
    with Image.open(PROJECT / ".github/first_run.png") as picture:
        for name, (left, top) in {"surface.png": (924, 0), "surface_growth.png": (0, 500)}.items():
            (made,) = tmp_path.rglob(name)
            plot = Image.open(made).convert("RGB")
            shown = picture.convert("RGB").crop((left, top, left + plot.width, top + plot.height))
            # Another version may draw a line a little thinner.
            assert np.abs(np.asarray(plot, dtype=float) - np.asarray(shown, dtype=float)).mean() < 3, name


def test_the_readme_has_at_most_1500_words():
    assert len(README.split()) <= 1_500  # as `wc -w` counts


def test_the_map_names_every_entry_of_src_with_its_owner():
    entries = dict(re.findall(r"^ +(\S+) +(yours|engine|tools) +\S", MAP, re.MULTILINE))
    there = {f"{path.name}/" if path.is_dir() else path.name for path in (PROJECT / "src").iterdir()}
    assert entries.keys() == there - {"__init__.py", "__pycache__/"}
    owners = {"engine/": "engine", "cli.py": "engine", "__main__.py": "engine", "tools/": "tools"}
    assert entries == {name: owners.get(name, "yours") for name in entries}


def test_the_always_on_callbacks_are_explained_with_the_options_that_turn_them_off(cli):
    text = " ".join(always_on.__doc__.split())
    assert [name for name, _ in always_on.ALWAYS_ON if f"`{name}`" not in text] == []
    help_ = cli("fit", "--help").out
    options = re.findall(r"`(--\S+) false`", text)
    assert len(options) >= 3
    assert [option for option in options if option not in help_] == []


def test_files_that_the_readme_names_are_there():
    named = set(re.findall(r"`((?:src|configs|tests|\.github)/[\w./-]+\.\w+)`", README))
    made = {name for name in named if "iris" in name} | FILES.keys()  # by `make new`, by the reader
    paths = [("src/" if line[0] == " " else "") + line.split()[0] for line in MAP.splitlines()]
    assert len(named) > 3
    assert len(paths) > 8
    assert not [name for name in (*(named - made), *paths) if not (PROJECT / name).exists()]


@pytest.mark.slow
def test_a_step_of_ones_own_is_the_file_that_the_readme_shows(tmp_path: Path) -> None:
    project = copy_of_project(tmp_path / "project")
    write_files(project)
    for tool in (["ruff", "check"], ["ruff", "format", "--check"], ["mypy"]):
        done = lint(project, *tool, "src/sequences.py")
        assert done.returncode == 0, done.stdout
    (project / "sequences.yaml").write_text(SEQUENCES)
    done = python("-m", "src", "fit", "--config", "sequences.yaml", cwd=project)
    assert done.returncode == 0, done.stderr
    with (project / "runs/sequences/version_0/metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert {"train/mse", "train/size", "val/loss", "val/mae"} <= rows[0].keys()
    # Whatever padding there is, the mean is over what is none.
    loss, mse, size = (float(rows[-1][f"train/{name}"]) for name in ("loss", "mse", "size"))
    assert loss == pytest.approx(mse + 0.01 * size, rel=1e-5)


SEQUENCES = """
model:
  class_path: src.sequences.SequenceModule
  init_args:
    net: {class_path: torch.nn.Linear, init_args: {in_features: 2, out_features: 2}}
    loss: {class_path: torch.nn.MSELoss}
    metrics: {mae: {class_path: torchmetrics.MeanAbsoluteError}}
    optimizer: {class_path: torch.optim.Adam, init_args: {lr: 0.1}}
data: {class_path: tests.test_readme.Sequences}
trainer: {max_epochs: 2}
"""


class Sequences(LightningDataModule):
    def train_dataloader(self):
        ones, steps = torch.ones(4, 2), torch.arange(4)
        samples = [{"x": ones, "target": ones, "mask": steps <= k % 4} for k in range(9)]
        return DataLoader(samples, batch_size=4)

    val_dataloader = train_dataloader
