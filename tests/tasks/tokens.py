"""A label per token in batches of Hugging Face's kind, a UserDict; -100 means no label."""

from collections import UserDict
from pathlib import Path
from types import SimpleNamespace

import torch
from lightning.pytorch import LightningDataModule
from torch import nn
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import DataLoader, random_split


def write_data(folder: Path) -> None:
    generator = torch.Generator().manual_seed(4)
    sentences = [torch.randint(1, 20, (2 + k % 7,), generator=generator) for k in range(84)]
    torch.save(sentences[:63], folder / "train.pt")
    torch.save(sentences[63:], folder / "test.pt")


def collate(sentences):
    ids = pad_sequence(sentences, batch_first=True)
    labels = (ids % 4).where(ids > 1, -100)
    return UserDict(input_ids=ids, attention_mask=(ids > 0).long(), labels=labels)


class Data(LightningDataModule):
    def __init__(self, batch_size: int = 6):
        super().__init__()
        self.batch_size = batch_size

    def setup(self, stage):
        if stage == "fit":
            self.train, self.val = random_split(torch.load("train.pt"), [45, 18])

    def loader(self, sentences, shuffle=False):
        return DataLoader(sentences, self.batch_size, shuffle, collate_fn=collate)

    def train_dataloader(self):
        return self.loader(self.train, shuffle=True)

    def val_dataloader(self):
        return self.loader(self.val)

    def test_dataloader(self):
        return self.loader(torch.load("test.pt"))

    predict_dataloader = test_dataloader


class Tagger(nn.Module):
    def __init__(self, width: int = 8):
        super().__init__()
        self.layers = nn.Sequential(nn.Embedding(20, width), nn.Dropout(0.1), nn.Linear(width, 4))

    def forward(self, input_ids, attention_mask, labels=None):
        logits = self.layers(input_ids) * attention_mask.unsqueeze(2)
        loss = None if labels is None else nn.functional.cross_entropy(logits.flatten(0, 1), labels.flatten())
        return SimpleNamespace(loss=loss, logits=logits)
