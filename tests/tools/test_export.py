"""The exported file computes what `predict` computes, or is not kept."""

import hashlib
import importlib
import subprocess
import sys
import textwrap
from pathlib import Path

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
import yaml
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import src.tools.export
from src.module import LitModule
from src.tools.export import main as export
from tests.conftest import CONFIGS, SMALL

X = torch.randn(64, 1, 8, 8, generator=torch.Generator().manual_seed(0))
TARGET = (X.mean(dim=(1, 2, 3)) > 0).long()


class Pairs(pl.LightningDataModule):
    """Loads (x, target), scaled after the transfer."""

    def train_dataloader(self):
        return DataLoader(TensorDataset(X, TARGET), batch_size=16)

    val_dataloader = test_dataloader = train_dataloader

    def on_after_batch_transfer(self, batch, dataloader_idx):
        x, target = batch
        return 3 * x + 1, target


class Dicts(Pairs):
    """Loads dicts; the net takes two of their entries."""

    def train_dataloader(self):
        rows = [{"x": x, "scale": x.mean(), "labels": y, "name": "a"} for x, y in zip(X, TARGET, strict=True)]
        return DataLoader(rows, batch_size=16)

    val_dataloader = test_dataloader = train_dataloader

    def on_after_batch_transfer(self, batch, dataloader_idx):
        return batch


class ConvNet(nn.Module):
    """Normalises over the batch and drops: both change in training."""

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Dropout(), nn.Flatten())
        self.head = nn.Linear(144, 2)

    def forward(self, x, scale=None):
        hidden = self.layers(x)
        return self.head(hidden if scale is None else hidden * scale.unsqueeze(1))


class Branches(ConvNet):
    """Cannot be exported."""

    def forward(self, x):
        if x.sum() > 0:
            return super().forward(x)
        return super().forward(-x)


class Lies(ConvNet):
    """Computes something else in an export."""

    def forward(self, x):
        return super().forward(x) * (2 if torch.compiler.is_exporting() else 1)


class Foreign(pl.LightningModule):
    """Knows nothing of this project; two outputs."""

    def __init__(self):
        super().__init__()
        self.body = ConvNet()

    def training_step(self, batch):
        loss = nn.functional.cross_entropy(self.body(batch[0]), batch[1])
        self.log("val/loss", loss)
        return loss

    validation_step = test_step = training_step

    def predict_step(self, batch):
        logits = self.body(batch[0])
        return logits.argmax(dim=1), logits

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters())


def net(name: str, data: str = "Pairs") -> list[str]:
    """Options of a fit of one of the nets above."""
    own = [f"--data={__name__}.{data}", "--trainer.max_epochs=1"]
    if name == "Foreign":
        return [f"--model={__name__}.Foreign", *own]
    optimizer = ["--model.optimizer=torch.optim.Adam", "--model.loss=torch.nn.CrossEntropyLoss"]
    return [f"--model.net={__name__}.{name}", "--model.activation=softmax", *optimizer, *own]


@pytest.fixture
def exported(cli):
    """Fit, export, and return the printed lines and the description of the file."""

    def run(options: list[object], *words: str):
        done = cli("fit", "--experiment", "net", *options)
        assert done.code == 0, done.err
        export(["--ckpt_path", "runs/net/version_0", *words])
        return yaml.safe_load(Path("runs/net/version_0/export/export.yaml").read_text())

    return run


def test_a_pt2_file_gives_the_scores_of_any_number_of_rows(exported):
    (file, facts), *_ = exported(net("ConvNet"), "--format", "pt2").items()
    assert facts["largest_difference"] <= 1e-6
    best = Path("runs/net/version_0/checkpoints/best.ckpt")
    assert facts["sha256"] == hashlib.sha256(best.read_bytes()).hexdigest()
    program = torch.export.load(f"runs/net/version_0/export/{file}").module()
    with torch.no_grad():
        logits = LitModule.load_from_checkpoint(best).net(3 * X[:3] + 1)  # as the data module's hook scales them
        assert torch.allclose(program({"x": X[:3]}), logits.softmax(dim=1), atol=1e-6)


def test_safetensors_hold_the_weights_under_the_names_of_the_net(exported):
    load_file = pytest.importorskip("safetensors.torch").load_file
    exported(net("ConvNet"), "--format", "safetensors")
    export(["--ckpt_path", "runs/net/version_0", "--format", "pt2", "--raw"])
    weights = load_file("runs/net/version_0/export/net.safetensors")
    ConvNet().load_state_dict(weights)
    assert not torch.equal(weights["layers.1.running_mean"], torch.zeros(4))


@pytest.mark.parametrize(
    ("name", "words"), [("Lies", ["differs", "not kept"]), ("Branches", ["Branches", "test_export.py:"])]
)
def test_a_file_that_is_wrong_or_cannot_be_made_is_not_kept(name, words, exported):
    with pytest.raises(SystemExit) as stop:
        exported(net(name), "--format", "pt2")
    assert all(word in str(stop.value) for word in words)
    assert "\n" not in str(stop.value)
    assert not list(Path("runs/net/version_0/export").iterdir())


def test_a_missing_package_is_reported_with_the_command_that_adds_it(monkeypatch):
    monkeypatch.setitem(src.tools.export.PACKAGES, "onnx", ["no_such_package"])
    with pytest.raises(SystemExit, match=r"no_such_package.*make use"):
        export(["--ckpt_path", "anywhere"])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "inputs", "outputs"),
    [
        (net("ConvNet"), {"x": "float32 (batch, 1, 8, 8)"}, 1),
        (net("ConvNet", "Dicts"), {"x": "float32 (batch, 1, 8, 8)", "scale": "float32 (batch)"}, 1),
        (net("Foreign"), {"x": "float32 (batch, 1, 8, 8)"}, 2),
        (["--config", SMALL], {"x": "float32 (batch, 2)"}, 1),
        # The rows as they come: the file scales them.
        ([f"--config={CONFIGS / 'rows.yaml'}", "--trainer.max_epochs=1"], {"x": "float64 (batch, 4)"}, 1),
    ],
    ids=["conv", "dict", "foreign", "xor", "rows"],
)
def test_an_onnx_file_of_any_net_is_proved(options, inputs, outputs, exported):
    pytest.importorskip("onnxruntime")
    facts = exported(options)["model.onnx"]
    export(["--ckpt_path", "runs/net/version_0", "--format", "pt2"])
    assert facts["inputs"] == inputs
    assert len(facts["outputs"]) == outputs
    assert facts["largest_difference"] <= 1e-4


@pytest.mark.slow
def test_ten_thousand_digits_get_the_same_labels_without_this_project(exported, mnist, tmp_path):
    pytest.importorskip("onnxruntime")
    facts = exported(["--config", CONFIGS / "mnist.yaml", *mnist.options, "--trainer.max_epochs=1"])
    assert facts["model.onnx"]["inputs"] == {"x": "uint8 (batch, 28, 28)"}
    raw = bytearray((mnist.root / "MNIST/raw/t10k-images-idx3-ubyte").read_bytes()[16:])
    images = torch.frombuffer(raw, dtype=torch.uint8).reshape(-1, 28, 28)
    normalize = importlib.import_module("src.data.mnist").normalize
    with torch.no_grad():
        module = LitModule.load_from_checkpoint("runs/net/version_0/checkpoints/best.ckpt")
        expected = module.predict_step(normalize(images), 0)
    subprocess.run([sys.executable, "-m", "uv", "venv", "--python", sys.executable, "alone"], check=True)
    python = tmp_path / "alone/bin/python"
    subprocess.run([sys.executable, "-m", "uv", "pip", "install", "--python", python, "onnxruntime"], check=True)
    lines = textwrap.dedent(src.tools.export.__doc__.partition("onnxruntime:\n")[2])
    lines = lines.replace("runs/mnist", str(tmp_path / "runs/net"))
    np.save(tmp_path / "images.npy", images.numpy())
    lines = lines.replace("np.zeros((3, 28, 28), dtype=np.uint8)", f"np.load({str(tmp_path / 'images.npy')!r})")
    lines += f"np.save({str(tmp_path / 'scores.npy')!r}, scores)\n"
    subprocess.run([python, "-c", lines], check=True, cwd="/")
    scores = torch.from_numpy(np.load(tmp_path / "scores.npy"))
    assert (scores - expected).abs().max() <= 1e-4
    assert torch.equal(scores.argmax(dim=1), expected.argmax(dim=1))
