"""The exported file computes what `predict` computes, or is not kept."""

import hashlib
import importlib
import shutil
import subprocess
import sys
import textwrap
from contextlib import chdir
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
import yaml
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import src.tools.export
from src.cli import main as fit
from src.module import LitModule
from src.tools.export import main as export
from tests.conftest import CONFIGS, PROJECT
from tests.tasks import tokens

X = torch.randn(64, 1, 8, 8, generator=torch.Generator().manual_seed(0))
TARGET = (X.mean(dim=(1, 2, 3)) > 0).long()


class Pairs(pl.LightningDataModule):
    """Loads (x, target), scaled for a prediction in two hooks: 3 x + 1."""

    def train_dataloader(self):
        return DataLoader(TensorDataset(X, TARGET), batch_size=16)

    def val_dataloader(self):
        return self.train_dataloader()

    test_dataloader = predict_dataloader = val_dataloader

    def on_before_batch_transfer(self, batch, dataloader_idx):
        return batch[0] + 2, batch[1]

    def on_after_batch_transfer(self, batch, dataloader_idx):
        return 3 * batch[0] - 5 if self.trainer.predicting else batch[0], batch[1]


class ConvNet(nn.Sequential):
    """Normalises over the batch and drops: both change in training."""

    def __init__(self):
        super().__init__(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Dropout(), nn.Flatten(), nn.Linear(144, 2))

    def forward(self, x):
        return super().forward(x.view(x.size(0), 1, 8, 8))  # asks for the size of the batch


class Branches(ConvNet):
    """Cannot be exported."""

    def forward(self, x):
        return super().forward(x if x.sum() > 0 else -x)


class Lies(ConvNet):
    """Computes something else in an export."""

    def forward(self, x):
        return super().forward(x) * (2 if torch.compiler.is_exporting() else 1)


class Plain(pl.LightningModule):
    """Knows nothing of this project, and calls an input, an output and a layer as it likes."""

    def __init__(self):
        super().__init__()
        self.net, self.activation = ConvNet(), nn.ReLU()

    def forward(self, x):
        return self.activation(self.net(x))

    def training_step(self, batch, batch_idx):
        return nn.functional.cross_entropy(self(batch[0]), batch[1])

    def predict_step(self, batch):
        return {"x": self(batch[0])}

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters())


CONV = ["--model.activation=softmax", "--model.optimizer=torch.optim.Adam", "--model.loss=torch.nn.CrossEntropyLoss"]
CONV += [f"--model.net={__name__}.ConvNet"]


def fitted(*options: object) -> Path:
    """Fit for an epoch; return the run."""
    fit(["fit", "--experiment=net", "--trainer.max_epochs=1", *options])
    return Path("runs/net/version_0").absolute()


def exported(run: Path, *words: str) -> dict[str, Any]:
    """Export; return what export.yaml says of the file."""
    export(["--ckpt_path", str(run), *words])
    facts: dict[str, Any] = yaml.safe_load((run / "export/export.yaml").read_text())
    return [*facts.values()][-1]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Fit the net of convolutions."""
    with chdir(tmp_path_factory.mktemp("net")):
        return fitted(f"--data={__name__}.Pairs", *CONV)


def test_a_pt2_file_gives_the_scores_of_any_number_of_rows(run):
    facts, best = exported(run, "--format=pt2"), run / "checkpoints/best.ckpt"
    assert facts["largest_difference"] <= 1e-6
    assert facts["inputs"] == {"x": "float32 (batch, 1, 8, 8)"}
    assert facts["sha256"] == hashlib.sha256(best.read_bytes()).hexdigest()
    net = LitModule.load_from_checkpoint(best).net
    exported(run, "--format=pt2", "--raw")
    with torch.no_grad():
        for file, scores in (("model", net(3 * X[:3] + 1).softmax(dim=1)), ("net", net(X[:3]))):
            program = torch.export.load(run / f"export/{file}.pt2").module()  # the data module's hooks scale
            assert torch.allclose(program({"x": X[:3]}), scores, atol=1e-6)


def test_safetensors_hold_the_weights_under_the_names_of_the_net(run):
    load_file = pytest.importorskip("safetensors.torch").load_file
    exported(run, "--format=safetensors")
    weights = load_file(run / "export/net.safetensors")
    ConvNet().load_state_dict(weights)
    assert not torch.equal(weights["1.running_mean"], torch.zeros(4))


@pytest.mark.parametrize(
    ("name", "words"), [("Lies", ["differs", "not kept"]), ("Branches", ["Branches", "test_export.py:"])]
)
def test_a_file_that_is_wrong_or_cannot_be_made_is_not_kept(name, words, run, tmp_path):
    copy = shutil.copytree(run, tmp_path / "copy", ignore=shutil.ignore_patterns("export"))
    with pytest.raises(SystemExit) as stop:
        exported(copy, "--format=pt2", f"--model.net={__name__}.{name}")
    assert all(word in str(stop.value) for word in words)
    assert "\n" not in str(stop.value)
    assert not list((copy / "export").iterdir())


def test_a_missing_package_is_reported_with_the_command_that_adds_it(monkeypatch):
    monkeypatch.setitem(src.tools.export.PACKAGES, "onnx", ["no_such_package"])
    with pytest.raises(SystemExit, match=r"no_such_package.*make use"):
        export(["--ckpt_path", "anywhere"])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("config", "inputs", "outputs"),
    [
        ("tests/tasks/gan.yaml", {"x": "float32 (batch, 12)"}, 2),  # a module that knows nothing of this project
        ("tests/tasks/tokens.yaml", {"input_ids": "int64 (batch, 7)", "attention_mask": "int64 (batch, 7)"}, 1),
        ("configs/rows.yaml", {"x": "float64 (batch, 4)"}, 1),  # as they come: the file scales them
    ],
)
def test_an_onnx_file_of_any_net_is_proved(config, inputs, outputs, tmp_path, monkeypatch):
    pytest.importorskip("onnxruntime")
    monkeypatch.chdir(tmp_path)
    tokens.write_data(tmp_path)
    facts = exported(fitted(f"--config={PROJECT / config}"))
    assert facts["inputs"] == inputs
    assert len(facts["outputs"]) == outputs
    assert facts["largest_difference"] <= 1e-4


@pytest.mark.slow
def test_an_output_has_a_name_of_its_own_and_raw_keeps_a_layer_of_a_plain_module(tmp_path, monkeypatch):
    session = pytest.importorskip("onnxruntime").InferenceSession
    monkeypatch.chdir(tmp_path)
    run = fitted(f"--data={__name__}.Pairs", f"--model={__name__}.Plain", "--test_after_fit=false")
    exported(run, "--raw")
    (found,) = session(run / "export/net.onnx").run(["x_out"], {"x": X.numpy()})
    module = LitModule.load_from_checkpoint(run)
    with torch.no_grad():
        assert torch.allclose(torch.from_numpy(found), module(X), atol=1e-5)


@pytest.mark.slow
def test_ten_thousand_digits_get_the_same_labels_without_this_project(mnist, tmp_path, monkeypatch):
    pytest.importorskip("onnxruntime")
    monkeypatch.chdir(tmp_path)
    facts = exported(fitted("--config", CONFIGS / "mnist.yaml", *mnist.options))
    assert facts["inputs"] == {"x": "uint8 (batch, 28, 28)"}
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
