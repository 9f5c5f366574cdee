"""What a data module learned from the data comes along in the checkpoint: a vocabulary, from a file."""

from pathlib import Path

import torch
from lightning.pytorch import LightningDataModule
from torch.utils.data import DataLoader, TensorDataset

LINES = ["good: a fine book", "bad: a dull one", "good: a fine story", "bad: dull and long"]
CONFIG = """
model:
  net: {class_path: torch.nn.Linear, init_args: {in_features: 8, out_features: 2}}
  loss: {class_path: torch.nn.CrossEntropyLoss}
  optimizer: {class_path: torch.optim.Adam, init_args: {lr: 0.1}}
data: {class_path: tests.engine.test_learned.Reviews}
trainer: {max_epochs: 1, accelerator: cpu}
"""


class Reviews(LightningDataModule):
    """Counts words; learns its vocabulary unless a checkpoint brings one."""

    def __init__(self, texts: list[str] | None = None) -> None:
        super().__init__()
        self.texts = texts
        self.vocabulary: dict[str, int] = {}

    def setup(self, stage):
        pairs = [["good", text] for text in self.texts or []]
        if stage != "predict":
            pairs = [line.split(": ") for line in Path("reviews.txt").read_text().splitlines()]
        if not self.vocabulary:
            print("learns a vocabulary")
            self.vocabulary = {word: k for k, word in enumerate(dict.fromkeys(" ".join(t for _, t in pairs).split()))}
        words = torch.tensor([[float(word in text.split()) for word in self.vocabulary] for _, text in pairs])
        self.data = TensorDataset(words, torch.tensor([int(label == "good") for label, _ in pairs]))

    def train_dataloader(self):
        return DataLoader(self.data, batch_size=2)

    val_dataloader = test_dataloader = predict_dataloader = train_dataloader

    def state_dict(self):
        return {"vocabulary": self.vocabulary}

    def load_state_dict(self, state_dict):
        self.vocabulary = state_dict["vocabulary"]


def test_a_checkpoint_brings_the_vocabulary_to_every_verb_but_not_to_a_new_run(cli, tmp_path):
    Path("reviews.yaml").write_text(CONFIG)
    Path("reviews.txt").write_text("\n".join(LINES))

    def learns(*words):
        done = cli(*words)
        assert done.code == 0, done.err
        return done.out.count("learns a vocabulary")

    assert learns("fit", "--config", "reviews.yaml") == 1
    run = "runs/reviews/version_0"
    before = torch.load(f"{run}/checkpoints/last.ckpt", weights_only=True)
    Path("reviews.txt").write_text("\n".join(LINES[::-1]))  # other words come first
    assert learns("test", "--ckpt_path", run) == 0
    assert learns("fit", "--ckpt_path", run, "--trainer.max_epochs=2") == 0
    after = torch.load(f"{run}/checkpoints/last.ckpt", weights_only=True)
    assert after["global_step"] > before["global_step"]
    assert after["Reviews"] == before["Reviews"]
    assert learns("fit", "--config", "reviews.yaml", "--transfer.weights", run) == 1
    Path("reviews.txt").unlink()
    assert learns("predict", "--ckpt_path", run, '--data.texts=["a fine story", "dull and long"]') == 0
