"""The images that a classifier was surest about and wrong: mistakes.png."""

import math
from typing import Any

import numpy as np
import torch
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor

from src.engine.errors import UserError
from src.engine.evaluated import Evaluated
from src.engine.pictures import EvaluationPicture, new_figure


class Mistakes(EvaluationPicture):
    """Draws the most confident mistakes, the surest first, each with the true class and the guess.

    Args:
        most: How many.
    """

    def __init__(self, most: int = 24) -> None:
        super().__init__()
        self.most = most

    def begin(self) -> "Surest":
        return Surest(self.most)

    def draw_seen(self, trainer: Trainer, module: LightningModule, seen: Any, suffix: str) -> None:
        names = getattr(getattr(trainer, "datamodule", None), "class_names", None)
        of_what = f"{self.of_what}{suffix.replace('_', ' ')}"
        self.save(trainer, f"mistakes{suffix}", plot_mistakes(seen, names, of_what))


class Surest:
    """The mistakes so far, the surest first; of equally sure ones that which comes first in the data.

    Attributes:
        images: (K, 1 or 3, H, W), as the net saw them.
        rows: (K, 4) float64: sureness, place in the data, true class, guess.
        num_mistakes: Of all samples.
        num_samples: All.
    """

    def __init__(self, most: int) -> None:
        self.most = most
        self.images = torch.empty(0)
        self.rows = torch.empty(0, 4, dtype=torch.float64)
        self.num_mistakes = self.num_samples = 0

    def add(self, batch: Evaluated) -> None:
        """Look at a batch."""
        images, seen = batch.images, batch.guesses()
        if seen.confidence is None:
            raise UserError("the step gave classes alone: without probabilities nobody knows how sure it was.")
        if seen.kept.shape != (len(images),) and seen.kept.shape != (len(images), 1):
            raise UserError(f"the targets {tuple(seen.kept.shape)} are not one class for each image.")
        wrong = seen.guess != seen.truth
        self.num_samples += len(wrong)
        self.num_mistakes += int(wrong.sum())
        places = batch.places(len(images))[seen.kept.flatten()]
        # The last digits differ with the number of processes: they shall not decide.
        sure = (seen.confidence.double() * 1e4).round() / 1e4
        rows = torch.stack([sure, places.double(), seen.truth.double(), seen.guess.double()], dim=1)
        first = order(rows[wrong])[: self.most]
        which = seen.kept.flatten().nonzero().flatten()[wrong][first]
        self._keep(images[which.to(images.device)].float().cpu(), rows[wrong][first])

    def merge(self, other: "Surest") -> None:
        """Take those of another process, too."""
        self.num_samples += other.num_samples
        self.num_mistakes += other.num_mistakes
        self._keep(other.images, other.rows)

    def _keep(self, images: Tensor, rows: Tensor) -> None:
        if not len(rows):
            return
        if len(self.rows) and images.shape[1:] != self.images.shape[1:]:
            raise UserError(
                f"the images have several sizes: {tuple(images.shape[1:])}, {tuple(self.images.shape[1:])}."
            )
        images, rows = (
            (torch.cat([self.images, images]), torch.cat([self.rows, rows])) if len(self.rows) else (images, rows)
        )
        first = order(rows)[: self.most]
        self.images, self.rows = images[first], rows[first]


def order(rows: Tensor) -> Tensor:
    """(K,) int64, the surest first and among equals the first in the data."""
    by_place = rows[:, 1].argsort(stable=True)
    return by_place[rows[by_place, 0].argsort(descending=True, stable=True)]


def viewable(images: Tensor) -> Tensor:
    """Images brought to [0, 1], each by itself where they were normalised: (K, 1 or 3, H, W) float32 both.

    Args:
        images: In [0, 1], in [0, 255], or normalised.
    """
    if images.min() >= 0 and images.max() <= 1:
        return images
    if images.min() >= 0 and images.max() > 16 and bool((images == images.round()).all()):
        return images / 255
    low, high = images.amin(dim=(1, 2, 3), keepdim=True), images.amax(dim=(1, 2, 3), keepdim=True)
    return (images - low) / (high - low).clamp(min=1e-12)


def plot_mistakes(seen: Surest, names: list[str] | None, of_what: str) -> Any:
    """A figure: a grid of images, over each of them the true class, the guess and how sure it was.

    Args:
        seen: The mistakes.
        names: Of the classes, where somebody knows them.
        of_what: In the title.
    """
    columns = min(max(math.ceil(math.sqrt(1.5 * len(seen.rows))), 4), 8)
    lines = max(-(-len(seen.rows) // columns), 1)
    images = viewable(seen.images).permute(0, 2, 3, 1).numpy() if len(seen.rows) else np.zeros((0, 1, 1, 1))
    largest = max(images.shape[1:3])
    height, width = (1.2 * side / largest for side in images.shape[1:3])
    line = height + 0.45  # with its words
    figure = new_figure(1.3 * columns, line * lines + 0.4, margins=(0, 0, 0, 0.4))
    figure.suptitle(f"{of_what}: {seen.num_mistakes:,} of {seen.num_samples:,} are wrong; the surest of them")
    # One part of the figure for all images: one for each would take four times as long.
    axes = figure.add_subplot()
    axes.axis("off")
    for number, (image, (sure, _, truth, guess)) in enumerate(zip(images, seen.rows.tolist(), strict=True)):
        x, y = 1.3 * (number % columns) + 0.05, line * (number // columns) + 0.4
        axes.imshow(image, cmap="gray", vmin=0, vmax=1, extent=(x, x + width, y + height, y), interpolation="nearest")
        true, guessed = (names[int(k)] if names and int(k) < len(names) else int(k) for k in (truth, guess))
        said = f"true {true}\nguess {guessed}, {sure:.1%}"
        axes.text(x + width / 2, y - 0.05, said, fontsize=8, ha="center", va="bottom")
    axes.set(xlim=(0, 1.3 * columns), ylim=(line * lines, 0), aspect="auto")
    return figure
