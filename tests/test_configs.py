"""Each YAML is an experiment that runs, or a fragment that runs on top of one."""

import pytest
import yaml

from tests.conftest import CONFIGS, SMALL

EXPERIMENTS = sorted(CONFIGS.glob("*.yaml"))
# A sweep's file is no part of a config: its own test reads it.
FRAGMENTS = [path for path in sorted(CONFIGS.glob("*/*.yaml")) if path.parent.name != "sweep"]


@pytest.mark.parametrize("config", EXPERIMENTS, ids=lambda path: path.stem)
def test_experiment_runs_a_step_of_every_stage(config, cli, request):
    data = request.getfixturevalue("mnist").options if "MNISTDataModule" in config.read_text() else []
    done = cli("fit", "--config", config, *data, "--trainer.fast_dev_run=true")
    assert done.code == 0, done.err


@pytest.mark.parametrize("config", EXPERIMENTS, ids=lambda path: path.stem)
def test_experiment_is_a_lab_note_of_under_40_lines_with_its_command_and_result(config):
    text = config.read_text()
    assert len(text.splitlines()) < 40
    header = text[: text.index("\n\n")] if "\n\n" in text else ""
    assert f"python -m src fit --config configs/{config.name}" in header
    assert "torch 2." in header


@pytest.mark.parametrize("config", FRAGMENTS, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_fragment_holds_one_concern_in_few_lines(config):
    lines = [line for line in config.read_text().splitlines() if line and not line.startswith("#")]
    assert 1 <= len(lines) <= 8


def test_the_saved_config_can_be_fed_back(cli, tmp_path):
    short = ("--trainer.max_epochs=1", "--data.passes=5", "--trainer.callbacks=null")
    first = cli("fit", "--config", SMALL, *short)
    files = [tmp_path / f"runs/xor/version_{number}/config.yaml" for number in range(2)]
    second = cli("fit", "--config", files[0])
    assert first.code == second.code == 0
    assert first.metrics == second.metrics
    assert yaml.safe_load(files[0].read_text()) == yaml.safe_load(files[1].read_text())


def test_print_config_can_be_fed_back(cli, tmp_path):
    printed = cli("fit", "--config", SMALL, "--trainer.max_epochs=1", "--print_config")
    assert printed.code == 0
    (tmp_path / "again.yaml").write_text(printed.out)
    done = cli("fit", "--config", "again.yaml", "--trainer.fast_dev_run=true")
    assert done.code == 0, done.err
