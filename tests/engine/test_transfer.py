"""A fit that starts with the weights of another training."""

import re
import shlex
import sys

import pytest
import torch
import yaml

from src.engine.checkpoint.build import Transfer
from src.engine.errors import UserError
from tests import stopping


@pytest.fixture
def source(tmp_path):
    """The last checkpoint of a run of one epoch."""
    return stopping.fit(tmp_path / "source", stopping.config(max_epochs=1)) / "checkpoints/last.ckpt"


@pytest.fixture
def other(tmp_path):
    """The file of another experiment that learns nothing: what it saves is what it started with."""
    experiment = stopping.config(max_epochs=1) | {"experiment": "other", "seed_everything": 99}
    experiment["model"]["optimizer"] = {"class_path": "torch.optim.SGD", "init_args": {"lr": 0.0}}
    (tmp_path / "other.yaml").write_text(yaml.safe_dump(experiment))
    return tmp_path / "other.yaml"


def weights(path):
    return torch.load(path, weights_only=True)["state_dict"]


def seeded_net():
    """Weights that no run here starts with."""
    torch.manual_seed(7)
    return stopping.Net().state_dict()


def into(net, **options):
    """What a net has after a transfer."""
    Transfer(**options).into(net)
    return net.state_dict()


def equal(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def test_a_fit_starts_with_the_weights_and_nothing_else(cli, source, other, tmp_path):
    assert cli("fit", "--config", other).code == 0
    done = cli("fit", "--config", other, f"--transfer.weights={source.parents[1]}")
    assert f"weights from {source}: 4 of 4 tensors" in done.out, done.err
    fresh, last = (tmp_path / f"runs/other/version_{n}/checkpoints/last.ckpt" for n in range(2))
    assert equal(weights(last), weights(source))
    assert not equal(weights(fresh), weights(source))
    assert torch.load(last, weights_only=True)["global_step"] == 12


def test_a_resumed_run_keeps_its_own_weights_and_needs_the_source_no_more(cli, source, other):
    assert cli("fit", "--config", other, f"--transfer.weights={source}").code == 0
    source.unlink()
    done = cli("fit", "--ckpt_path=runs/other/version_0", "--trainer.max_epochs=2")
    assert done.code == 0, done.err
    assert "weights from" not in done.out
    assert cli("test", "--ckpt_path=runs/other/version_0").code == 0


def save(path, kind):
    """Write weights as trainings elsewhere do."""
    held = seeded_net()
    if kind == "safetensors":
        path = path.with_suffix(".safetensors")
        pytest.importorskip("safetensors.torch", reason="needs the package safetensors").save_file(held, path)
        return path
    kinds = {
        "names and tensors": held,
        "state_dict": {"state_dict": held, "epoch": 3},
        "model": {"model": held, "config": {"lr": 0.1}},
        "DistributedDataParallel": {f"module.{name}": value for name, value in held.items()},
    }
    torch.save(kinds[kind], path)
    return path


KINDS = ["names and tensors", "state_dict", "model", "DistributedDataParallel", "safetensors"]


@pytest.mark.parametrize("kind", KINDS)
def test_a_file_of_weights_from_elsewhere(tmp_path, kind):
    assert equal(into(stopping.Net(), weights=save(tmp_path / "weights.pth", kind)), seeded_net())


class Wrapped(torch.nn.Module):
    """A net that has a part `module` of its own."""

    def __init__(self):
        super().__init__()
        self.module = stopping.Net()


@pytest.mark.parametrize(
    ("start", "more", "net", "options"),
    [
        ("backbone.", {"head.weight": torch.ones(1)}, stopping.Net, {"prefix": "backbone."}),
        ("net.encoder.", {}, stopping.Net, {"prefix": "net.encoder."}),
        ("net.", {}, stopping.Net, {}),
        ("module.", {}, Wrapped, {}),
    ],
    ids=["a backbone", "a part of a run's net", "a run's net", "a net with a part called module"],
)
def test_what_stands_before_the_names(tmp_path, start, more, net, options):
    torch.save({f"{start}{name}": value for name, value in seeded_net().items()} | more, tmp_path / "weights.pt")
    found = into(net(), weights=tmp_path / "weights.pt", **options)
    assert equal({name.removeprefix("module."): value for name, value in found.items()}, seeded_net())


def test_what_is_skipped_keeps_its_fresh_values(tmp_path):
    torch.save(seeded_net() | {"2.weight": torch.ones(1000, 8), "2.bias": torch.ones(1000)}, tmp_path / "weights.pt")
    net = stopping.Net()
    fresh = {name: value.clone() for name, value in net.state_dict().items()}
    mixed = into(net, weights=tmp_path / "weights.pt", skip=["2."])
    assert torch.equal(mixed["0.weight"], seeded_net()["0.weight"])
    assert torch.equal(mixed["2.weight"], fresh["2.weight"])


MISTAKES = {
    "names that do not fit": ({f"a.{n}": v for n, v in seeded_net().items()}, {}, "names with --transfer.prefix"),
    "another shape": (seeded_net() | {"0.weight": torch.ones(16, 4)}, {}, r"0.weight has shape \(16, 4\), .* \(8, 4\)"),
    "no weights": ({"epoch": 3, "lr": 0.1}, {}, "has no weights: it holds the names epoch, lr"),
    "a tensor": (torch.ones(3), {}, "has no weights: it holds a Tensor"),
    "a whole net": (stopping.Net(), {}, "refused: it holds more than tensors and plain values"),
    "unknown prefix": (seeded_net(), {"prefix": "b."}, "no weight of .* begins with b.; there are 0.weight, 0.bias"),
    "unknown skip": (seeded_net(), {"skip": ["head"]}, "no parameter begins with head; there are 0.weight"),
}


@pytest.mark.parametrize(("held", "options", "hint"), MISTAKES.values(), ids=MISTAKES.keys())
def test_what_does_not_fit_is_named(tmp_path, held, options, hint):
    torch.save(held, tmp_path / "weights.pt")
    with pytest.raises(UserError, match=hint):
        into(stopping.Net(), weights=tmp_path / "weights.pt", **options)


@pytest.mark.parametrize("ending", ["pt", "safetensors"])
def test_a_file_that_is_cut_short_is_named(tmp_path, ending):
    if ending == "safetensors":
        pytest.importorskip("safetensors", reason="needs the package safetensors")
    (tmp_path / f"weights.{ending}").write_bytes(b"\x10\0\0")
    with pytest.raises(UserError, match="or only a part of one"):
        into(stopping.Net(), weights=tmp_path / f"weights.{ending}")


def test_without_the_package_a_safetensors_file_says_how_to_get_it(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "safetensors.torch", None)  # as if it were not installed
    (tmp_path / "weights.safetensors").touch()
    with pytest.raises(UserError, match="needs a package that is not installed: pip install safetensors"):
        into(stopping.Net(), weights=tmp_path / "weights.safetensors")


def last_line(done):
    assert done.code != 0
    (line,) = [line for line in done.err.splitlines() if "Seed set" not in line]
    return line


@pytest.mark.parametrize("name", ["transfer.weights", "ckpt_path"])
def test_a_mistake_is_one_line_and_makes_no_run(cli, other, tmp_path, name):
    done = cli("fit", "--config", other, f"--{name}=nope")
    assert last_line(done) == f"error: {name}=nope does not exist. Name a checkpoint file or a run's folder."
    done = cli("fit", "--config", other, f"--{name}=https://example.com/net.pth")
    assert last_line(done) == (
        f"error: {name}=https://example.com/net.pth is an address. Download the file, and name it as a path."
    )
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("kind", ["names and tensors", "safetensors"])
def test_bare_weights_in_place_of_a_checkpoint_say_what_helps_and_it_does(cli, other, tmp_path, kind):
    line = last_line(cli("test", "--config", other, "--ckpt_path", save(tmp_path / "its weights.pt", kind)))
    assert "holds no config" in line
    advice = shlex.split(re.search(r"--config YAML (.*) in place of --ckpt_path", line)[1])
    done = cli("test", "--config", other, *advice)
    net = stopping.Net()
    net.load_state_dict(seeded_net())
    x, target = (part[48:] for part in stopping.Sums().data)
    assert done.metrics["test/loss"] == pytest.approx(torch.nn.functional.mse_loss(net(x), target).item(), rel=1e-4)
