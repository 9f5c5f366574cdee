"""Each YAML is an experiment that runs, or a fragment of a few lines."""

import pytest

from tests.conftest import CONFIGS, write_synthetic

EXPERIMENTS = sorted(CONFIGS.glob("*.yaml"))


@pytest.mark.parametrize("config", EXPERIMENTS, ids=lambda path: path.stem)
def test_experiment(config, cli, tmp_path):
    text = config.read_text()
    assert len(text.splitlines()) < 40
    header = text.partition("\n\n")[0]
    assert f"python -m src fit --config configs/{config.name}" in header
    assert "torch 2." in header
    write_synthetic(tmp_path / "MNIST/raw", 600, 100)
    data = ("--data.root=.", "--data.val_size=100") if "MNISTDataModule" in text else ()
    done = cli("fit", "--config", config, *data, "--trainer.fast_dev_run=true")
    assert done.code == 0, done.err


def test_fragment_holds_one_concern():
    fragments = [path for path in sorted(CONFIGS.glob("*/*.yaml")) if path.parent.name != "sweep"]
    for path in fragments:
        lines = [line for line in path.read_text().splitlines() if line and not line.startswith("#")]
        assert 1 <= len(lines) <= 8, path
