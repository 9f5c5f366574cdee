"""A folder for each run, whatever the logger."""

from pathlib import Path

import pytest
import yaml

from src.cli import main
from src.engine.run.run import RunCallback
from tests.conftest import SMALL

SHORT = ("--trainer.max_epochs=2", "--data.passes=5", "--trainer.callbacks=null")


def test_each_run_has_a_folder_of_its_own_with_all_it_made(cli, tmp_path):
    for number in range(2):
        assert cli("fit", "--config", SMALL, *SHORT).code == 0
        folder = tmp_path / f"runs/xor/version_{number}"
        assert (folder / "config.yaml").is_file()
        assert {path.name for path in (folder / "checkpoints").iterdir()} == {"last.ckpt", "best.ckpt"}
    assert [path.name for path in tmp_path.iterdir()] == ["runs"]


def test_the_folder_is_the_same_with_another_logger(cli, tmp_path):
    logger = ("--trainer.logger=CSVLogger", "--trainer.logger.save_dir=elsewhere")
    assert cli("fit", "--config", SMALL, *SHORT, *logger).code == 0
    assert (tmp_path / "runs/xor/version_0/checkpoints/last.ckpt").is_file()
    assert list(tmp_path.glob("elsewhere/**/metrics.csv"))


def test_the_experiments_name_and_the_root_are_options(cli, tmp_path):
    named = ("--experiment=mine", f"--trainer.default_root_dir={tmp_path / 'there'}")
    assert cli("fit", "--config", SMALL, *SHORT, *named).code == 0
    assert (tmp_path / "there/mine/version_0/config.yaml").is_file()


def test_a_folder_that_is_there_is_never_taken(cli, tmp_path):
    (tmp_path / "runs/xor/version_0").mkdir(parents=True)
    (tmp_path / "runs/xor/version_0/notes.txt").write_text("mine")
    assert cli("fit", "--config", SMALL, *SHORT).code == 0
    assert [path.name for path in (tmp_path / "runs/xor/version_0").iterdir()] == ["notes.txt"]


def test_the_config_holds_the_seed_and_every_option(cli, tmp_path):
    assert cli("fit", "--config", SMALL, *SHORT, "--seed_everything=0").code == 0
    config = yaml.safe_load((tmp_path / "runs/xor/version_0/config.yaml").read_text())
    assert config["seed_everything"] == 0
    assert config["model"]["init_args"]["net"]["init_args"] == {"hidden": 4}
    assert config["trainer"]["gradient_clip_val"] is None


@pytest.mark.parametrize("how", ["local.yaml", "option", "--config"])
def test_a_tilde_names_one_folder_for_all_and_nothing_is_overwritten(how, cli, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert cli("fit", "--config", SMALL, *SHORT, f"--trainer.default_root_dir={tmp_path / 'home/runs'}").code == 0
    first = tmp_path / "home/runs/xor/version_0"
    before = {path: path.read_bytes() for path in first.rglob("*") if path.is_file()}
    (tmp_path / ("local.yaml" if how == "local.yaml" else "mine.yaml")).write_text(
        "trainer: {default_root_dir: ~/runs}"
    )
    more = {"local.yaml": [], "option": ["--trainer.default_root_dir=~/runs"], "--config": ["--config=mine.yaml"]}[how]
    assert cli("fit", "--config", SMALL, *SHORT, "--seed_everything=7", *more).code == 0
    assert {path: path.read_bytes() for path in first.rglob("*") if path.is_file()} == before
    assert (first.parent / "version_1/checkpoints/last.ckpt").is_file()
    assert not (tmp_path / "~").exists()


def test_a_tilde_in_other_paths(cli, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (tmp_path / "home").mkdir()
    (tmp_path / "home/more.yaml").write_text("trainer: {default_root_dir: ~/runs}")
    assert cli("fit", "--config", SMALL, "--config=~/more.yaml", *SHORT).code == 0
    assert cli("test", "--ckpt_path=~/runs/xor/version_0").code == 0
    weights = ("--transfer.weights=~/runs/xor/version_0/checkpoints/best.ckpt", "--trainer.logger=CSVLogger")
    assert cli("fit", "--config", SMALL, *SHORT, *weights, "--trainer.logger.save_dir=~/logs").code == 0
    assert list(tmp_path.glob("home/logs/**/metrics.csv"))
    assert not (tmp_path / "~").exists()


def test_an_address_is_no_folder(cli):
    done = cli("fit", "--config", SMALL, "--trainer.default_root_dir=s3://bucket/runs")
    assert done.code == 1
    assert "s3://bucket/runs is an address" in done.err
    # fsspec, by which Lightning writes checkpoints, reads `a::b` as two addresses.
    done = cli("fit", "--config", SMALL, "--experiment=a::b")
    assert done.code == 1
    assert "runs/a::b: a folder of runs cannot have `::` in its path. Set --experiment" in done.err
    assert not Path("runs").exists()


def test_a_program_brings_callbacks_that_know_the_run_and_a_folder_of_its_own(tmp_path):
    seen = RunCallback()
    short = ("--trainer.max_epochs=1", "--data.passes=5", f"--trainer.default_root_dir={tmp_path}")
    done = main(["fit", "--config", SMALL, *short], callbacks=[seen], folder=tmp_path / "mine")
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
def test_a_place_that_is_no_folder_is_one_line_and_stays(cli, tmp_path, make):
    make(tmp_path / "runs")
    before = sorted(tmp_path.rglob("*"))
    done = cli("fit", "--config", SMALL, *SHORT)
    assert done.code == 1
    (line,) = [line for line in done.err.splitlines() if "Seed set" not in line]
    assert line.startswith(f"error: Cannot write into {tmp_path / 'runs'}")
    assert "--trainer.default_root_dir" in line
    assert sorted(tmp_path.rglob("*")) == before


def test_options_that_the_trainer_refuses_leave_no_folder(cli, tmp_path):
    done = cli("fit", "--config", SMALL, "--trainer.accelerator=tpu")
    assert done.code == 1
    assert not list(tmp_path.glob("runs/*"))
