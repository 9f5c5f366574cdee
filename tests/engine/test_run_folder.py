"""A folder for each run, whatever the logger."""

import yaml

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
