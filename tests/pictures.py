"""What the tests of plots share: small tasks, a test by Lightning's own trainer, and a look at what was drawn."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from lightning.pytorch import LightningDataModule, LightningModule, Trainer
from matplotlib.cbook import is_math_text
from matplotlib.text import Text
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from src.data.loader import TensorLoader
from src.engine.loggers.pictures import Picture
from src.module import LitModule

NUM_ROWS = 50  # neither two processes nor a batch divide it


def bars() -> tuple[Tensor, Tensor]:
    """Images (N, 1, 6, 8) with a bright row in one of three places, and noise that hides some of them; the place."""
    generator = torch.Generator().manual_seed(0)
    target = torch.arange(NUM_ROWS) % 3
    images = 3 * torch.randn(NUM_ROWS, 1, 6, 8, generator=generator)
    images[torch.arange(NUM_ROWS), 0, 2 * target] += 1.5
    return images, target


def sums() -> tuple[Tensor, Tensor]:
    """Four numbers, and two targets: their sum, and another one with weights."""
    x = torch.randn(NUM_ROWS, 4, generator=torch.Generator().manual_seed(0))
    return x, torch.stack([x.sum(dim=1), 10 + 3 * x[:, 0] - x[:, 1]], dim=1)


class Data(LightningDataModule):
    """Batches for every stage; with two names an evaluation has two sets, the second is one half in a DataLoader."""

    class_names = ("low", "middle", "high")

    def __init__(self, tensors: tuple[Tensor, Tensor] | None = None, names: tuple[str, ...] = ()) -> None:
        super().__init__()
        self.tensors = tensors or bars()
        self.names = names

    def train_dataloader(self) -> Any:
        return TensorLoader(self.tensors, 16)

    def val_dataloader(self) -> Any:
        whole = self.train_dataloader()
        half = DataLoader(TensorDataset(*(each[: NUM_ROWS // 2] for each in self.tensors)), 16)
        return dict(zip(self.names, (whole, half), strict=True)) if self.names else whole

    test_dataloader = val_dataloader


class OddData(Data):
    """The same with names of classes and data sets as nobody would choose them, and some do."""

    class_names = ("$0-$10", "$x^$", r"中\$a_{$" + "\n\x00\udcff" + 200 * "long ")

    def __init__(self) -> None:
        super().__init__(names=("$a/b$", "$a:b$"))


class Net(nn.Sequential):
    """Guesses the place of the bar by the sum of its row: most guesses are right."""

    def __init__(self) -> None:
        super().__init__(nn.Flatten(), nn.Linear(48, 3))
        rows = torch.eye(6)[::2].repeat_interleave(8, dim=1)  # (3, 48)
        self[1].load_state_dict({"weight": 0.05 * rows, "bias": torch.zeros(3)})


def classifier(net: nn.Module | None = None) -> LitModule:
    """Return a module for `bars`, or for other data with a net of its own."""
    return LitModule(net or Net(), nn.CrossEntropyLoss(), torch.optim.SGD)


def evaluate(picture: Picture, module: LightningModule, data: LightningDataModule, folder: Path) -> dict[str, Any]:
    quiet = dict.fromkeys(("logger", "enable_progress_bar", "enable_checkpointing", "enable_model_summary"), False)
    with figures() as kept:
        trainer = Trainer(accelerator="cpu", devices=1, callbacks=[picture], default_root_dir=folder, **quiet)
        trainer.test(module, data, verbose=False)
    return kept


@contextmanager
def figures() -> Iterator[dict[str, Any]]:
    """Note each figure that is saved."""
    kept: dict[str, Any] = {}
    save = Picture.save

    def noting(self: Picture, trainer: Trainer, name: str, figure: Any) -> None:
        save(self, trainer, name, figure)
        kept[name] = figure

    with patch.object(Picture, "save", noting):
        yield kept


def formulas(figure: Any) -> list[str]:
    """Return each text that matplotlib takes for a formula."""
    figure.draw_without_rendering()
    return [text.get_text() for text in figure.findobj(Text) if is_math_text(text.get_text())]


def pixels(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"))
