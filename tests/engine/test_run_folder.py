"""Each run has its own folder, and nothing is overwritten."""

import json
import os

import pytest
import yaml

from src.cli import main
from src.engine.errors import UserError
from src.engine.run import folder
from src.engine.run.run import Run, RunCallback
from tests.conftest import SMALL

SHORT = ("--trainer.max_epochs=1", "--data.passes=5", "--trainer.callbacks=null", "--test_after_fit=false")


def test_each_run_has_its_own_folder_whatever_the_logger(cli, tmp_path):
    (tmp_path / "runs/xor/version_0").mkdir(parents=True)
    (tmp_path / "runs/xor/version_0/notes.txt").write_text("mine")
    logger = ("--trainer.logger=CSVLogger", "--trainer.logger.save_dir=elsewhere", "--seed_everything=0")
    for number, options in enumerate([(), logger], start=1):
        assert cli("fit", "--config", SMALL, *SHORT, *options).code == 0
        run = tmp_path / f"runs/xor/version_{number}"
        assert {path.name for path in (run / "checkpoints").iterdir()} == {"last.ckpt", "best.ckpt"}
    assert [path.name for path in (tmp_path / "runs/xor/version_0").iterdir()] == ["notes.txt"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["elsewhere", "runs"]
    assert list(tmp_path.glob("elsewhere/**/metrics.csv"))
    config = yaml.safe_load((run / "config.yaml").read_text())
    assert config["seed_everything"] == 0
    assert config["model"]["init_args"]["net"]["init_args"] == {"hidden": 4}
    assert config["trainer"]["gradient_clip_val"] is None


def test_a_tilde_means_the_home_folder_in_files_and_options(cli, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    first = tmp_path / "home/runs/xor/version_0"
    assert cli("fit", "--config", SMALL, *SHORT, "--trainer.default_root_dir=~/runs").code == 0
    before = {path: path.read_bytes() for path in first.rglob("*") if path.is_file()}
    (tmp_path / "local.yaml").write_text("trainer: {default_root_dir: ~/runs}")
    weights = "--transfer.weights=~/runs/xor/version_0/checkpoints/best.ckpt"
    assert cli("fit", "--config", SMALL, *SHORT, "--seed_everything=7", weights).code == 0
    assert {path: path.read_bytes() for path in first.rglob("*") if path.is_file()} == before
    assert (first.parent / "version_1/checkpoints/last.ckpt").is_file()
    assert not (tmp_path / "~").exists()


def test_a_program_brings_callbacks_that_know_the_run_and_its_own_folder(tmp_path):
    seen = RunCallback()
    options = (*SHORT, f"--trainer.default_root_dir={tmp_path}")
    done = main(["fit", "--config", SMALL, *options], callbacks=[seen], folder=tmp_path / "mine")
    assert seen in done.trainer.callbacks
    assert seen.run.folder == tmp_path / "mine"
    assert (tmp_path / "mine/checkpoints/last.ckpt").is_file()
    assert "RunCallback" not in (tmp_path / "mine/config.yaml").read_text()


ODD = {
    "a file": lambda root: root.write_text("mine"),
    "a link that leads nowhere": lambda root: root.symlink_to("nowhere/at/all"),
    "a file of the experiment's name": lambda root: (root.mkdir(), (root / "xor").write_text("mine")),
}


@pytest.mark.parametrize("make", ODD.values(), ids=ODD.keys())
def test_a_place_that_is_no_folder_is_named_and_stays(tmp_path, make):
    make(tmp_path / "runs")
    before = sorted(tmp_path.rglob("*"))
    root = folder.runs_folder(tmp_path / "runs", "xor")
    with pytest.raises(UserError, match=f"Cannot write into {root}: .*--trainer.default_root_dir"):
        folder.begin(Run(), root)
    assert sorted(tmp_path.rglob("*")) == before


JOBS = {
    "SLURM, first start": ({"SLURM_JOB_ID": "7"}, False, False),
    "SLURM, requeued": ({"SLURM_JOB_ID": "7", "SLURM_RESTART_COUNT": "1"}, False, True),
    "torchrun, restarted": ({"TORCHELASTIC_RUN_ID": "x", "TORCHELASTIC_RESTART_COUNT": "1"}, False, True),
    "torchrun, a machine that joins": ({"TORCHELASTIC_RUN_ID": "x"}, False, True),
    "torchrun, after the end": ({"TORCHELASTIC_RUN_ID": "x"}, True, False),
    "no job": ({}, False, False),
}


@pytest.mark.parametrize(("variables", "ended", "found"), JOBS.values(), ids=JOBS.keys())
def test_a_job_that_starts_again_finds_the_run_of_the_same_config(variables, ended, found, tmp_path, monkeypatch):
    for name in [name for name in os.environ if name.startswith(("SLURM_", "TORCHELASTIC_"))]:
        monkeypatch.delenv(name)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    mine, other = Run(config={"lr": 1}), Run(config={"lr": 2})
    for run in (mine, other):
        folder.begin(run, tmp_path)
        run.last.parent.mkdir()
        run.last.touch()
        (run.folder / "summary.json").write_text(json.dumps({"state": "finished" if ended else "running"}))
    assert folder.find_interrupted(tmp_path, {"lr": 1}) == (mine.last if found else None)
    assert folder.find_interrupted(tmp_path, {"lr": 3}) is None
