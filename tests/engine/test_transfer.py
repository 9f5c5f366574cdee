"""A fit that begins with the net's weights of another run."""

import re
import shlex
import sys

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
    assert not (tmp_path / "runs").exists()


def test_another_shape_is_named(cli, source, tmp_path):
    wide = ["--model.net=tests.engine.test_transfer.Wide"]
    done = cli(*options(tmp_path), f"--transfer.weights={source}", *wide)
    assert "0.weight has shape (8, 4), the config's net (16, 4)" in done.err


class Wide(torch.nn.Sequential):
    def __init__(self):
        super().__init__(torch.nn.Linear(4, 16), torch.nn.ReLU(), torch.nn.Linear(16, 1))


def seeded_net():
    """Weights that no run here begins with."""
    torch.manual_seed(7)
    return stopping.Net().state_dict()


def save(path, kind, weights):
    """Write weights as trainings elsewhere do."""
    kinds = {
        "names and tensors": lambda: torch.save(weights, path),
        "state_dict": lambda: torch.save({"state_dict": weights, "epoch": 3}, path),
        "model": lambda: torch.save({"model": weights, "config": {"lr": 0.1}}, path),
        "DistributedDataParallel": lambda: torch.save({f"module.{name}": v for name, v in weights.items()}, path),
    }
    kinds[kind]()
    return path


@pytest.mark.parametrize("kind", ["names and tensors", "state_dict", "model", "DistributedDataParallel"])
@pytest.mark.parametrize("ending", ["pt", "pth", "bin"])
def test_a_file_of_weights_from_elsewhere(cli, tmp_path, kind, ending):
    file = save(tmp_path / f"weights.{ending}", kind, seeded_net())
    done = cli(*options(tmp_path), f"--transfer.weights={file}")
    assert done.code == 0, done.err
    assert f"weights from {file}: 4 of 4 tensors" in done.out
    begun = weights(tmp_path / "runs/other/version_0/checkpoints/last.ckpt")
    assert all(torch.equal(value, begun[f"net.{name}"]) for name, value in seeded_net().items())


def test_a_safetensors_file(cli, tmp_path):
    safetensors = pytest.importorskip("safetensors.torch", reason="needs the package safetensors")
    safetensors.save_file(seeded_net(), tmp_path / "weights.safetensors")
    assert cli(*options(tmp_path), "--transfer.weights=weights.safetensors").code == 0
    begun = weights(tmp_path / "runs/other/version_0/checkpoints/last.ckpt")
    assert all(torch.equal(value, begun[f"net.{name}"]) for name, value in seeded_net().items())


def test_without_the_package_a_safetensors_file_says_how_to_get_it(cli, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "safetensors.torch", None)  # as if it were not installed
    (tmp_path / "weights.safetensors").touch()
    done = cli(*options(tmp_path), "--transfer.weights=weights.safetensors")
    assert last_line(done) == (
        "error: weights.safetensors needs a package that is not installed: pip install safetensors"
    )


@pytest.mark.parametrize("before", ["", "module."])
def test_a_prefix_is_taken_off_and_what_lacks_it_left_out(cli, tmp_path, before):
    file = {f"{before}backbone.{name}": value for name, value in seeded_net().items()}
    torch.save(file | {f"{before}head.weight": torch.ones(1)}, tmp_path / "weights.pt")
    done = cli(*options(tmp_path), "--transfer.weights=weights.pt", "--transfer.prefix=backbone.")
    assert done.code == 0, done.err
    assert "4 of 4 tensors" in done.out
    begun = weights(tmp_path / "runs/other/version_0/checkpoints/last.ckpt")
    assert all(torch.equal(value, begun[f"net.{name}"]) for name, value in seeded_net().items())


def test_a_part_of_another_runs_net(cli, source, tmp_path):
    own = torch.load(source, weights_only=True)
    own["state_dict"] = {name.replace("net.", "net.encoder."): value for name, value in own["state_dict"].items()}
    torch.save(own, source)
    done = cli(*options(tmp_path), f"--transfer.weights={source}", "--transfer.prefix=net.encoder.")
    assert "4 of 4 tensors" in done.out


def test_skip_leaves_out_the_head_of_a_file(cli, tmp_path):
    file = seeded_net() | {"2.weight": torch.ones(1000, 8), "2.bias": torch.ones(1000)}
    torch.save(file, tmp_path / "weights.pt")
    done = cli(*options(tmp_path), "--transfer.weights=weights.pt", '--transfer.skip=["2."]')
    assert "2 of 4 tensors" in done.out


class Wrapped(torch.nn.Module):
    """A net that has a part `module` of its own."""

    def __init__(self):
        super().__init__()
        self.module = stopping.Net()

    def forward(self, x):
        return self.module(x)


def test_a_net_with_a_part_called_module_keeps_that_word(cli, tmp_path):
    torch.save({f"module.{name}": value for name, value in seeded_net().items()}, tmp_path / "weights.pt")
    done = cli(*options(tmp_path), "--transfer.weights=weights.pt", f"--model.net={__name__}.Wrapped")
    assert "4 of 4 tensors" in done.out, done.err


FILES = {
    "names that do not fit": (
        {f"a.b.{n}": v for n, v in seeded_net().items()},
        "a beginning off the file's names",
    ),
    "no weights": ({"epoch": 3, "lr": 0.1}, "has no weights: it holds the names epoch, lr"),
    "a tensor": (torch.ones(3), "has no weights: it holds a Tensor"),
    "a whole net": (stopping.Net(), "refused: it holds more than tensors and plain values"),
}


@pytest.mark.parametrize(("held", "hint"), FILES.values(), ids=FILES.keys())
def test_a_file_that_does_not_fit_is_one_clear_line(cli, tmp_path, held, hint):
    torch.save(held, tmp_path / "weights.pt")
    done = cli(*options(tmp_path), "--transfer.weights=weights.pt")
    assert hint in last_line(done)


def test_a_prefix_that_nothing_has_names_what_is_there(cli, tmp_path):
    torch.save(seeded_net(), tmp_path / "weights.pt")
    done = cli(*options(tmp_path), "--transfer.weights=weights.pt", "--transfer.prefix=backbone.")
    assert "no weight of weights.pt begins with backbone.; there are 0.weight, 0.bias" in last_line(done)


@pytest.mark.parametrize("ending", ["pt", "safetensors"])
def test_a_file_that_is_cut_short_is_one_clear_line(cli, tmp_path, ending):
    if ending == "safetensors":
        pytest.importorskip("safetensors", reason="needs the package safetensors")
    (tmp_path / f"weights.{ending}").write_bytes(b"\x10\0\0")
    done = cli(*options(tmp_path), f"--transfer.weights=weights.{ending}")
    assert "or only a part of one" in last_line(done)


def last_line(done):
    assert done.code != 0
    (line,) = [line for line in done.err.splitlines() if "Seed set" not in line]
    return line


@pytest.mark.parametrize("option", ["--transfer.weights", "--ckpt_path"])
def test_an_address_is_named_as_it_was_given(cli, tmp_path, option):
    done = cli(*options(tmp_path), f"{option}=https://example.com/net.pth")
    name = option.removeprefix("--")
    assert last_line(done) == (
        f"error: {name}=https://example.com/net.pth is an address. Download the file, and name it as a path."
    )
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("verb", ["fit", "test"])
@pytest.mark.parametrize("kind", ["names and tensors", "state_dict", "safetensors"])
def test_bare_weights_in_place_of_a_checkpoint_say_what_helps_and_it_does(cli, tmp_path, verb, kind):
    file = tmp_path / "its weights.pt"
    if kind == "safetensors":
        safetensors = pytest.importorskip("safetensors.torch", reason="needs the package safetensors")
        file = file.with_suffix(".safetensors")
        safetensors.save_file(seeded_net(), file)
    else:
        save(file, kind, seeded_net())
    done = cli(verb, *options(tmp_path)[1:], "--ckpt_path", file)
    line = last_line(done)
    assert "holds no config" in line
    advice = shlex.split(re.search(r"--config YAML (.*) in place of --ckpt_path", line)[1])
    done = cli(verb, *options(tmp_path)[1:], *advice)
    assert done.code == 0, done.err
    net = stopping.Net()
    net.load_state_dict(seeded_net())
    x, target = (part[48:] for part in stopping.Sums().data)
    loss = torch.nn.functional.mse_loss(net(x), target).item()
    assert done.metrics[f"{'val' if verb == 'fit' else verb}/loss"] == pytest.approx(loss, rel=1e-4)
