"""MNIST and its drop-in relatives, kept in memory as stored."""

from contextlib import nullcontext
from pathlib import Path
from typing import Any, Literal

import torch
from filelock import FileLock
from lightning.pytorch import LightningDataModule
from torch import Tensor
from torchvision import datasets

from src.data.loader import TensorLoader
from src.data.mnist_images import read_images
from src.engine.data.splits import fold_of, hold_out
from src.engine.errors import UserError, one_line

PROJECT = Path(__file__).parents[2]
MEAN, STD = 0.1307, 0.3081  # of the 60,000 training images of MNIST, on the 0 to 1 scale


class MNISTDataModule(LightningDataModule):
    """60,000 training images, split by a seed into training and validation; 10,000 test images, left whole and unseen.

    Batches of x (B, 1, 28, 28) float32, normalised, and target (B,) int64; for `predict` of x and the
    number of each image's file.

    Args:
        root: Folder in torchvision's layout, `<root>/MNIST/raw`. A relative one is looked for in the current folder,
            then beside `src`. What is missing is downloaded.
        dataset: The name of a torchvision dataset in MNIST's files.
        batch_size: Images per device in a step.
        val_size: Images that validation takes from the training images.
        split_seed: Decides which ones; apart from `seed_everything`, so that runs with different seeds are comparable.
        mirror: Address of a folder with the four files, in place of torchvision's own.
        predict_path: What `predict` reads: an image file, or a folder of them.
        fold: In place of `val_size`, the k-th of n folds validates: [0, 5]; see `python -m src repeat --folds 5`.
    """

    def __init__(
        self,
        root: Path = Path("data"),
        dataset: Literal["MNIST", "FashionMNIST", "KMNIST"] = "MNIST",
        batch_size: int = 512,
        val_size: int = 5_000,
        split_seed: int = 42,
        mirror: str | None = None,
        predict_path: Path | None = None,
        fold: tuple[int, int] | None = None,
    ) -> None:
        super().__init__()
        self.root = root if root.exists() or not (PROJECT / root).exists() else PROJECT / root
        self.source: type[datasets.MNIST] = getattr(datasets, dataset)
        self.raw = self.root / dataset / "raw"
        self.class_names = [name.split(" - ")[0] for name in self.source.classes]  # MNIST's own are "0 - zero"
        self.batch_size = batch_size
        self.val_size = val_size
        self.split_seed = split_seed
        self.mirror = mirror
        self.predict_path = predict_path
        self.fold = fold

    def prepare_data(self) -> None:
        missing = [name for name, _ in self.source.resources if not (self.raw / name).with_suffix("").is_file()]
        if missing and not (self.trainer and self.trainer.predicting):
            self._read(download=True)

    def _read(self, train: bool = True, download: bool = False) -> datasets.MNIST:
        """Let torchvision read the files, or download and verify what is missing; a UserError says what to do."""
        source, name = self.source, self.source.__name__
        if self.mirror:
            source = type(name, (source,), {"mirrors": [f"{self.mirror.rstrip('/')}/"]})
        try:
            self.raw.mkdir(parents=True, exist_ok=True)
            with FileLock(self.raw / ".lock") if download else nullcontext():  # another run may download, too
                return source(self.root, train=train, download=download)
        except (RuntimeError, OSError, ValueError, AssertionError, EOFError) as error:
            raise UserError(
                f"Cannot get {name} from {self.raw}: {one_line(error) or type(error).__name__} Check the connection, "
                "set --data.root or --data.mirror, put the packed files there, or delete that folder to download again."
            ) from error

    def setup(self, stage: str) -> None:
        """Load what the stage needs; a UserError says what is missing, does not fit, or cannot be read."""
        if stage == "predict":
            self.files, images = read_images(self.predict_path)
            self.images: tuple[Tensor, Tensor] = (images, torch.arange(len(images)))
            return
        data = self._read(train=stage != "test")
        self.images = (data.data, data.targets)
        if stage != "test":
            split, size = (fold_of, self.fold) if self.fold else (hold_out, self.val_size)
            self.train_rows, self.val_rows = split(len(data), size, self.split_seed)

    def train_dataloader(self) -> Any:
        return TensorLoader(self.images, self.batch_size, rows=self.train_rows, transform=normalize, shuffle=True)

    def val_dataloader(self) -> TensorLoader:
        return TensorLoader(self.images, self.batch_size, rows=self.val_rows, transform=normalize)

    def test_dataloader(self) -> TensorLoader:
        return TensorLoader(self.images, self.batch_size, transform=normalize)

    predict_dataloader = test_dataloader

    def prediction_rows(self, outputs: Tensor, batch: tuple[Tensor, Tensor]) -> list[dict[str, Any]]:
        """Return what `predict` prints and writes: each image's file, likeliest digit (or class) and its probability.

        Args:
            outputs: (B, 10) float32 probabilities.
            batch: Of x and the number of each image's file.
        """
        best = outputs.max(dim=1)
        rows = zip(batch[1].tolist(), best.indices.tolist(), best.values.tolist(), strict=True)
        return [{"file": str(self.files[k]), "digit": digit, "probability": round(p, 4)} for k, digit, p in rows]


def normalize(images: Tensor) -> Tensor:
    """Map (B, 28, 28) uint8 to (B, 1, 28, 28) float32 with mean 0 and standard deviation 1 over the data set."""
    return images.unsqueeze(1).float().mul_(1 / (255 * STD)).sub_(MEAN / STD)
