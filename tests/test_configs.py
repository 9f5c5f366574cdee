"""Each YAML is an experiment that runs, or a fragment of a few lines."""

import pytest
import yaml

from tests.conftest import CONFIGS, SMALL

EXPERIMENTS = sorted(CONFIGS.glob("*.yaml"))


@pytest.mark.parametrize("config", EXPERIMENTS, ids=lambda path: path.stem)
def test_experiment(config, cli, request):
    text = config.read_text()
    assert len(text.splitlines()) < 40
    header = text.partition("\n\n")[0]
    assert f"python -m src fit --config configs/{config.name}" in header
    assert "torch 2." in header
    data = request.getfixturevalue("mnist").options if "MNISTDataModule" in text else []
    done = cli("fit", "--config", config, *data, "--trainer.fast_dev_run=true")
    assert done.code == 0, done.err


def test_fragment_holds_one_concern():
    fragments = [path for path in sorted(CONFIGS.glob("*/*.yaml")) if path.parent.name != "sweep"]
    for path in fragments:
        lines = [line for line in path.read_text().splitlines() if line and not line.startswith("#")]
        assert 1 <= len(lines) <= 8, path


def test_saved_and_printed_config_run_again(cli, tmp_path):
    short = ("--trainer.max_epochs=1", "--data.passes=5", "--trainer.callbacks=null")
    first = cli("fit", "--config", SMALL, *short)
    (tmp_path / "printed.yaml").write_text(cli("fit", "--config", SMALL, *short, "--print_config").out)
    saved = [tmp_path / f"runs/xor/version_{number}/config.yaml" for number in range(3)]
    for config in (saved[0], "printed.yaml"):
        again = cli("fit", "--config", config, "--experiment=xor")
        assert again.code == 0, again.err
        assert again.metrics == first.metrics
    assert all(yaml.safe_load(path.read_text()) == yaml.safe_load(saved[0].read_text()) for path in saved)
