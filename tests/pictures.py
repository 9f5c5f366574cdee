"""What the tests of plots share: small tasks of each kind, and a look at what was drawn."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
import yaml
from lightning.pytorch import LightningDataModule, LightningModule, Trainer
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from src.cli import main
from src.data.loader import TensorLoader
from src.engine.loggers.pictures import Picture

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
    """One of the two for every stage.

    Args:
        what: `bars` or `sums`.
        form: Of a batch: `pair` or `dict`.
        sets: Data sets of an evaluation: the whole; or `day`, the whole, and `night/rain`, half of it.
        batch_size: Of all stages.
    """

    class_names = ("low", "middle", "high")
    set_names = ("day", "night/rain")

    def __init__(self, what: str = "bars", form: str = "pair", sets: int = 1, batch_size: int = 16) -> None:
        super().__init__()
        self.x, self.target = {"bars": bars, "sums": sums}[what]()
        self.form = form
        self.sets = sets
        self.batch_size = batch_size

    def loader(self, rows: int) -> Any:
        if self.form == "pair":
            return TensorLoader((self.x[:rows], self.target[:rows]), self.batch_size)
        pairs = zip(self.x[:rows], self.target[:rows], strict=True)
        return DataLoader([{"input": x, "labels": y} for x, y in pairs], self.batch_size)

    def train_dataloader(self) -> Any:
        pairs = DataLoader(TensorDataset(self.x, self.target), self.batch_size)
        return pairs if self.form == "pair" else self.loader(NUM_ROWS)

    def val_dataloader(self) -> Any:
        loaders = dict(zip(self.set_names, map(self.loader, (NUM_ROWS, 25)), strict=True))
        return self.loader(NUM_ROWS) if self.sets == 1 else loaders

    test_dataloader = val_dataloader


class OddData(Data):
    """The same with names of classes and data sets as nobody would choose them, and some do."""

    class_names = ("$0-$10", "$x^$", r"中\$a_{$" + "\n\x00\udcff" + 200 * "long ")
    set_names = ("$a/b$", "$a:b$")

    def __init__(self) -> None:
        super().__init__(sets=2)


class Net(nn.Sequential):
    """(B, ...) to (B, outputs)."""

    def __init__(self, num_features: int = 48, outputs: int = 3) -> None:
        super().__init__(nn.Flatten(), nn.Linear(num_features, 8), nn.ReLU(), nn.Linear(8, outputs))

    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input)


class Own(LightningModule):
    """As Lightning's manual writes it.

    Args:
        returns: The name under which its steps return what the net gave, or nothing.
        what: `bars` or `sums`.
    """

    def __init__(self, returns: str | None = None, what: str = "bars") -> None:
        super().__init__()
        self.returns = returns
        self.layers = Net() if what == "bars" else Net(4, 2)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        x, y = batch
        loss = nn.functional.cross_entropy if y.dim() == 1 else nn.functional.mse_loss
        return loss(self.layers(x), y)

    def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> Any:
        logits = self.layers(batch[0])
        outputs = logits if self.returns == "logits" else logits.softmax(dim=1)
        return {self.returns: outputs, "y": batch[1]} if self.returns else None

    test_step = validation_step

    def configure_optimizers(self) -> Any:
        return torch.optim.Adam(self.parameters(), lr=0.05)


CLASSIFICATION, REGRESSION = (
    yaml.safe_load("""
model:
  net: {class_path: tests.pictures.Net}
  loss: {class_path: torch.nn.CrossEntropyLoss}
  metrics:
    acc: {class_path: torchmetrics.classification.MulticlassAccuracy, init_args: {num_classes: 3, average: micro}}
    f1: {class_path: torchmetrics.classification.MulticlassF1Score, init_args: {num_classes: 3, average: macro}}
    recall: {class_path: torchmetrics.classification.MulticlassRecall, init_args: {num_classes: 3, average: null}}
  optimizer: {class_path: torch.optim.Adam, init_args: {lr: 0.01}}
data: {class_path: tests.pictures.Data}
"""),
    yaml.safe_load("""
model:
  net: {class_path: tests.pictures.Net, init_args: {num_features: 4, outputs: 2}}
  loss: {class_path: torch.nn.MSELoss}
  metrics:
    mae: {class_path: torchmetrics.MeanAbsoluteError}
    r2: {class_path: torchmetrics.R2Score}
  optimizer: {class_path: torch.optim.Adam, init_args: {lr: 0.05}}
data: {class_path: tests.pictures.Data, init_args: {what: sums}}
"""),
)


def write_yaml(path: Path, task: dict[str, Any], callback: str, **init_args: Any) -> Path:
    """Write an experiment of 4 epochs with a callback: its class path and its arguments."""
    callbacks = [{"class_path": callback, "init_args": init_args}]
    trainer = {"max_epochs": 4, "accelerator": "cpu", "enable_progress_bar": False, "callbacks": callbacks}
    more = {"seed_everything": 0, "test_after_fit": True, "experiment": "pictures", "trainer": trainer}
    path.write_text(yaml.safe_dump(task | more))
    return path


@dataclass
class Drawn:
    """A run's folder, what it drew by name, and the trainer."""

    folder: Path
    figures: dict[str, Any]
    trainer: Trainer

    def axes(self, name: str) -> list[Any]:
        return list(self.figures[name].axes)

    def metric(self, name: str) -> float:
        """Return the value that was logged last."""
        return float(self.trainer.callback_metrics[name])


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


def run(config: Path, *options: str, verb: str = "fit") -> Drawn:
    """Run a command with a config; look at what it draws."""
    place = f"--trainer.default_root_dir={config.parent / 'runs'}"
    with figures() as kept:
        done = main([verb, "--config", str(config), place, *options])
    return Drawn(Path(done.trainer.default_root_dir), kept, done.trainer)


@contextmanager
def formulas() -> Iterator[list[str]]:
    """Note each text that matplotlib takes for a formula."""
    from matplotlib.mathtext import MathTextParser

    noted: list[str] = []
    parse = MathTextParser.parse

    def noting(self: Any, text: str, *rest: Any, **more: Any) -> Any:
        noted.append(text)
        return parse(self, text, *rest, **more)

    with patch.object(MathTextParser, "parse", noting):
        yield noted


def pixels(path: Path) -> np.ndarray:
    """Return a PNG as (H, W, 3) uint8."""
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"))
