"""A fit that starts with the weights of another training."""

import pytest
import torch

from src.engine.checkpoint.build import Transfer
from src.engine.errors import UserError
from tests import stopping
from tests.conftest import SMALL
from tests.stopping import differences


def seeded_net():
    """Weights that no run here starts with."""
    torch.manual_seed(7)
    return stopping.Net().state_dict()


def into(net, **options):
    Transfer(**options).into(net)
    return net.state_dict()


def test_a_fit_starts_with_the_weights_and_its_resume_needs_the_source_no_more(fit_sums, cli, tmp_path):
    source = stopping.fit(tmp_path / "source", stopping.config(max_epochs=1)) / "checkpoints/last.ckpt"
    # A run that learns nothing: what it saves is what it started with.
    still = ("--seed_everything=99", "--model.optimizer.lr=0.0", "--trainer.max_epochs=1")
    done = fit_sums(*still, f"--transfer.weights={source.parents[1]}")
    assert f"weights from {source}: 4 of 4 tensors" in done.out
    last = torch.load("runs/sums/version_0/checkpoints/last.ckpt", weights_only=True)
    assert differences(last["state_dict"], torch.load(source, weights_only=True)["state_dict"]) == []
    assert last["global_step"] == 12
    source.unlink()
    done = cli("fit", "--ckpt_path=runs/sums/version_0", "--trainer.max_epochs=2")
    assert done.code == 0, done.err
    assert "weights from" not in done.out


def prefixed(start):
    return {f"{start}{name}": value for name, value in seeded_net().items()}


FILES = {
    "state_dict": {"state_dict": seeded_net(), "epoch": 3},
    "a run's net": prefixed("net."),
    "a backbone": prefixed("backbone.") | {"head.weight": torch.ones(1)},
}


@pytest.mark.parametrize("form", FILES)
def test_weights_from_elsewhere(tmp_path, form):
    torch.save(FILES[form], tmp_path / "weights.pth")
    assert differences(into(stopping.Net(), weights=tmp_path / "weights.pth"), seeded_net()) == []


def test_safetensors(tmp_path):
    package = pytest.importorskip("safetensors.torch", reason="needs the package safetensors")
    package.save_file(seeded_net(), tmp_path / "weights.safetensors")
    assert differences(into(stopping.Net(), weights=tmp_path / "weights.safetensors"), seeded_net()) == []


def test_skipped_parameters_keep_their_fresh_values(tmp_path):
    torch.save(seeded_net() | {"2.weight": torch.ones(1000, 8), "2.bias": torch.ones(1000)}, tmp_path / "weights.pt")
    net = stopping.Net()
    fresh = net[2].weight.clone()
    mixed = into(net, weights=tmp_path / "weights.pt", skip=["2."])
    assert torch.equal(mixed["0.weight"], seeded_net()["0.weight"])
    assert torch.equal(mixed["2.weight"], fresh)


MISTAKES = {
    "another shape": (seeded_net() | {"0.weight": torch.ones(16, 4)}, {}, RuntimeError, r"0.weight.*\[16, 4\]"),
    "two nets": (prefixed("a.") | prefixed("b."), {}, RuntimeError, "Missing .*0.weight"),
    "no weights": (torch.ones(3), {}, RuntimeError, "Missing .*0.weight"),
    "unknown skip": (seeded_net(), {"skip": ["head"]}, UserError, "no name begins with head; there are 0.weight"),
    "a whole net": (stopping.Net(), {}, UserError, "refused: it holds tests.stopping.Net"),
}


@pytest.mark.parametrize(("held", "options", "error", "hint"), MISTAKES.values(), ids=MISTAKES.keys())
def test_weights_that_do_not_fit_are_named(tmp_path, held, options, error, hint):
    torch.save(held, tmp_path / "weights.pt")
    with pytest.raises(error, match=hint):
        into(stopping.Net(), weights=tmp_path / "weights.pt", **options)


def test_weights_that_do_not_fit_are_one_line_and_make_no_run(cli, tmp_path):
    torch.save({"weight": torch.ones(1)}, tmp_path / "weights.pt")
    done = cli("fit", "--config", SMALL, "--transfer.weights=weights.pt")
    assert done.code == 1
    (line,) = done.err.splitlines()
    assert "Missing key(s)" in line
    assert not (tmp_path / "runs").exists()
