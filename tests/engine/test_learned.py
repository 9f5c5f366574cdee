"""What a data module learned from the data comes along in the checkpoint: a vocabulary, from a file."""

import re

import pytest
import torch

from tests.conftest import run_process

PACKAGE = """
from pathlib import Path

import torch
from lightning.pytorch import LightningDataModule
from torch.utils.data import DataLoader, TensorDataset


class Reviews(LightningDataModule):
    def __init__(self, path: str = "reviews.txt", texts: list[str] | None = None) -> None:
        super().__init__()
        self.path = path
        self.texts = texts
        self.vocabulary = {}
        self.classes = []

    def setup(self, stage):
        if stage == "predict":
            self.loaders = [self.loader(self.texts, [])]
            return
        pairs = [line.split(": ") for line in Path(self.path).read_text().splitlines()]
        if not self.vocabulary:
            print("learns a vocabulary")
            for _, text in pairs:
                for word in text.split():
                    self.vocabulary.setdefault(word, len(self.vocabulary))
            self.classes = sorted({label for label, _ in pairs})
        self.loaders = [self.loader([text for _, text in pairs], [self.classes.index(label) for label, _ in pairs])]

    def loader(self, texts, labels):
        x = torch.zeros(len(texts), 8)
        for row, text in enumerate(texts):
            for word in text.split():
                x[row, self.vocabulary[word]] += 1
        return DataLoader(TensorDataset(x, torch.tensor(labels)) if labels else TensorDataset(x), batch_size=2)

    def train_dataloader(self):
        return self.loaders[0]

    val_dataloader = test_dataloader = predict_dataloader = train_dataloader

    def state_dict(self):
        return {"vocabulary": self.vocabulary, "classes": self.classes}

    def load_state_dict(self, state_dict):
        self.vocabulary, self.classes = state_dict["vocabulary"], state_dict["classes"]

    def prediction_rows(self, outputs, batch):
        return [{"class": self.classes[row.argmax()], "score": row.max().item()} for row in outputs]
"""
CONFIG = """
model:
  net: {class_path: torch.nn.Linear, init_args: {in_features: 8, out_features: 2}}
  loss: {class_path: torch.nn.CrossEntropyLoss}
  optimizer: {class_path: torch.optim.Adam, init_args: {lr: 0.1}}
data: {class_path: reviews.Reviews}
trainer: {max_epochs: 4, accelerator: cpu}
"""
LINES = ["good: a fine book", "bad: a dull one", "good: a fine story", "bad: dull and long"]


@pytest.fixture
def reviews(tmp_path, cli, monkeypatch):
    """A run on reviews, in the current folder; returns the command line."""
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "reviews.py").write_text(PACKAGE)
    (tmp_path / "reviews.yaml").write_text(CONFIG)
    (tmp_path / "reviews.txt").write_text("\n".join(LINES))
    done = cli("fit", "--config", "reviews.yaml")
    assert done.code == 0, done.err
    assert done.out.count("learns a vocabulary") == 1
    return cli


def predictions(folder, number):
    return (folder / f"runs/reviews/version_{number}/predictions.csv").read_text()


PREDICT = ("predict", "--ckpt_path", "runs/reviews/version_0", '--data.texts=["a fine story", "dull and long"]')


@pytest.mark.slow
def test_predict_needs_the_text_no_more_that_the_vocabulary_was_learned_from(reviews, tmp_path):
    done = reviews(*PREDICT)
    assert done.code == 0, done.err
    (tmp_path / "reviews.txt").unlink()
    fresh = run_process(*PREDICT, cwd=tmp_path)
    assert fresh.returncode == 0, fresh.stderr
    assert predictions(tmp_path, 2) == predictions(tmp_path, 1)
    assert re.findall("good|bad", predictions(tmp_path, 1)) == ["good", "bad"]


@pytest.mark.parametrize("verb", ["test", "validate", "fit"])
def test_no_verb_that_starts_from_a_checkpoint_learns_anew(reviews, tmp_path, verb):
    last = "runs/reviews/version_0/checkpoints/last.ckpt"
    before = torch.load(last, weights_only=True)
    (tmp_path / "reviews.txt").write_text("\n".join(LINES[::-1]))  # other words come first
    longer = ["--trainer.max_epochs=5"] if verb == "fit" else []
    done = reviews(verb, "--ckpt_path", "runs/reviews/version_0", *longer)
    assert done.code == 0, done.err
    assert "learns a vocabulary" not in done.out
    after = torch.load(last, weights_only=True)
    assert (after["global_step"] > before["global_step"]) == (verb == "fit")
    assert after["Reviews"] == before["Reviews"]


def test_a_new_run_that_takes_only_the_weights_learns_from_its_own_data(reviews, tmp_path):
    (tmp_path / "reviews.txt").write_text("\n".join(LINES[::-1]))
    done = reviews("fit", "--config", "reviews.yaml", "--transfer.weights=runs/reviews/version_0")
    assert "learns a vocabulary" in done.out
