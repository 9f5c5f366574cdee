"""Sentences as dicts of tensors, as Hugging Face people have them, with a vocabulary learned from the training text."""

from pathlib import Path

import torch
from lightning.pytorch import LightningDataModule
from torch import nn
from torch.utils.data import DataLoader

WORDS = ["good", "fine", "great", "bad", "awful", "sad", "film", "book", "very", "not"]


def write_data(folder: Path) -> None:
    generator = torch.Generator().manual_seed(3)
    for name, number in (("train.txt", 60), ("test.txt", 19)):
        lines = []
        for _ in range(number):
            picked = torch.randint(0, 10, (int(torch.randint(1, 6, (1,), generator=generator)),), generator=generator)
            words = [WORDS[k] for k in picked]
            lines.append(f"{int(sum(k < 3 for k in picked) > sum(3 <= k < 6 for k in picked))}\t{' '.join(words)}")
        (folder / name).write_text("\n".join(lines))


class Text(LightningDataModule):
    def __init__(self, folder: str = ".", batch_size: int = 6):
        super().__init__()
        self.folder = Path(folder)
        self.batch_size = batch_size
        self.vocabulary = {}

    def read(self, name):
        rows = [line.split("\t") for line in (self.folder / name).read_text().splitlines()]
        return [(sentence.split(), int(label), f"{name}:{number}") for number, (label, sentence) in enumerate(rows)]

    def setup(self, stage):
        if stage == "fit":
            self.train = self.read("train.txt")
            if not self.vocabulary:
                words = sorted({word for sentence, _, _ in self.train for word in sentence})
                self.vocabulary = {word: number for number, word in enumerate(words, start=1)}
        else:
            self.test = self.read("test.txt")

    def state_dict(self):
        return {"vocabulary": self.vocabulary}

    def load_state_dict(self, state):
        self.vocabulary = state["vocabulary"]

    def collate(self, samples):
        length = max(len(sentence) for sentence, _, _ in samples)
        ids = torch.zeros(len(samples), length, dtype=torch.long)
        for row, (sentence, _, _) in zip(ids, samples, strict=True):
            row[: len(sentence)] = torch.tensor([self.vocabulary.get(word, 0) for word in sentence])
        labels = torch.tensor([label for _, label, _ in samples])
        names = [name for _, _, name in samples]
        return {"input_ids": ids, "attention_mask": (ids > 0).long(), "labels": labels, "names": names}

    def train_dataloader(self):
        return DataLoader(self.train, self.batch_size, shuffle=True, collate_fn=self.collate)

    def val_dataloader(self):
        return DataLoader(self.train[:20], self.batch_size, collate_fn=self.collate)

    def test_dataloader(self):
        return DataLoader(self.test, self.batch_size, collate_fn=self.collate)

    predict_dataloader = test_dataloader

    def prediction_rows(self, outputs, batch):
        return [
            {"name": name, "positive": round(p, 4)}
            for name, p in zip(batch["names"], outputs[:, 1].tolist(), strict=True)
        ]


class BagOfWords(nn.Module):
    def __init__(self, num_words: int = 11, width: int = 8):
        super().__init__()
        self.embed = nn.Embedding(num_words, width)
        self.dropout = nn.Dropout(0.1)
        self.head = nn.Linear(width, 2)

    def forward(self, input_ids, attention_mask):
        mask = attention_mask[:, :, None]
        mean = (self.embed(input_ids) * mask).sum(1) / mask.sum(1).clamp(min=1)
        return self.head(self.dropout(mean))
