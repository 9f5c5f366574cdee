"""A fit that begins with the net's weights of another run."""

import pytest
import torch
import yaml

from tests import stopping


@pytest.fixture
def source(tmp_path):
    """The last checkpoint of a run of one epoch."""
    return stopping.fit(tmp_path / "source", stopping.config(max_epochs=1)) / "checkpoints/last.ckpt"


def options(folder):
    """A run of another experiment that learns nothing: what it saves is what it began with."""
    experiment = stopping.config(max_epochs=1)
    experiment["model"]["optimizer"] = {"class_path": "torch.optim.SGD", "init_args": {"lr": 0.0}}
    experiment["seed_everything"] = 99
    file = folder / "other.yaml"
    file.write_text(yaml.safe_dump(experiment | {"experiment": "other"}))
    return ("fit", "--config", file)


def weights(path):
    return torch.load(path, weights_only=True)["state_dict"]


def test_the_net_begins_with_the_weights_and_nothing_else(cli, source, tmp_path):
    done = cli(*options(tmp_path), f"--transfer.weights={source.parents[1]}")
    assert done.code == 0, done.err
    assert f"weights from {source}: 4 of 4 tensors" in done.out
    last = torch.load(tmp_path / "runs/other/version_0/checkpoints/last.ckpt", weights_only=True)
    assert all(torch.equal(value, last["state_dict"][name]) for name, value in weights(source).items())
    assert last["global_step"] == 12


def test_without_the_option_the_net_begins_afresh(cli, source, tmp_path):
    assert cli(*options(tmp_path)).code == 0
    fresh = weights(tmp_path / "runs/other/version_0/checkpoints/last.ckpt")
    assert not any(torch.equal(value, fresh[name]) for name, value in weights(source).items())


def test_what_is_skipped_keeps_its_fresh_values(cli, source, tmp_path):
    assert cli(*options(tmp_path)).code == 0
    done = cli(*options(tmp_path), f"--transfer.weights={source}", '--transfer.skip=["2."]')
    assert "2 of 4 tensors" in done.out
    fresh, mixed = (weights(tmp_path / f"runs/other/version_{n}/checkpoints/last.ckpt") for n in range(2))
    assert torch.equal(mixed["net.0.weight"], weights(source)["net.0.weight"])
    assert torch.equal(mixed["net.2.weight"], fresh["net.2.weight"])


def test_a_resumed_run_keeps_its_own_weights_and_needs_the_source_no_more(cli, source, tmp_path):
    assert cli(*options(tmp_path), f"--transfer.weights={source}", "--model.optimizer.lr=0.1").code == 0
    source.unlink()
    before = weights(tmp_path / "runs/other/version_0/checkpoints/last.ckpt")
    done = cli("fit", "--ckpt_path=runs/other/version_0", "--trainer.max_epochs=2", "--model.optimizer.lr=0.1")
    assert done.code == 0, done.err
    assert "weights from" not in done.out
    assert cli("test", "--ckpt_path=runs/other/version_0").code == 0
    assert before.keys() == weights(tmp_path / "runs/other/version_0/checkpoints/last.ckpt").keys()


@pytest.mark.parametrize(
    ("more", "hint"),
    [
        (["--model.net=torch.nn.Linear", "--model.net.in_features=4", "--model.net.out_features=1"], "missing weight"),
        (["--transfer.skip=[head]"], "no parameter begins with head; there are 0.weight"),
        (["--transfer.weights=nope"], "nope does not exist"),
    ],
    ids=["another net", "unknown name", "no run"],
)
def test_a_mistake_is_one_clear_error(cli, source, tmp_path, more, hint):
    done = cli(*options(tmp_path), f"--transfer.weights={source}", *more)
    assert done.code != 0
    assert hint in done.err
    assert "Traceback" not in done.err
    assert len([line for line in done.err.splitlines() if "Seed set" not in line]) == 1


def test_another_shape_is_named(cli, source, tmp_path):
    wide = ["--model.net=tests.engine.test_transfer.Wide"]
    done = cli(*options(tmp_path), f"--transfer.weights={source}", *wide)
    assert "0.weight has shape (8, 4), the config's net (16, 4)" in done.err


class Wide(torch.nn.Sequential):
    def __init__(self):
        super().__init__(torch.nn.Linear(4, 16), torch.nn.ReLU(), torch.nn.Linear(16, 1))
