"""The images that a classifier got wrong with the highest confidence: mistakes.png."""

import heapq
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from torch import Tensor

from src.engine.errors import UserError
from src.engine.loggers.pictures import EvaluationPicture, Evaluated, as_label, class_names, new_figure, thumbnail

SIDE = 132  # pixels of the picture, for the longer side of an image


class Mistakes(EvaluationPicture):
    """Draws the most confident mistakes, each with the true class and the guess.

    Args:
        most: How many.
    """

    def __init__(self, most: int = 24) -> None:
        super().__init__()
        self.most = most

    def begin(self, batch: Evaluated) -> "TopMistakes":
        return TopMistakes(self.most)

    def add(self, seen: "TopMistakes", batch: Evaluated) -> None:
        seen.add(batch)

    def draw_seen(self, trainer: Trainer, module: LightningModule, seen: Any, suffix: str) -> None:
        self.save(trainer, f"mistakes{suffix}", plot_mistakes(seen, class_names(trainer), self.title(suffix)))


@dataclass
class Mistake:
    """A wrong guess; `index` is its place in the data, `image` is (1 or 3, H, W) and at most SIDE pixels long."""

    confidence: float
    index: int
    truth: int
    guess: int
    image: Any  # until its batch is done, the number of the image in the batch


class TopMistakes:
    """The most confident mistakes so far; the index in the data breaks ties.

    Args:
        most: How many are kept.
    """

    def __init__(self, most: int) -> None:
        self.most = most
        self.mistakes: list[Mistake] = []
        self.num_mistakes = self.num_samples = 0

    def add(self, batch: Evaluated) -> None:
        """Take in a batch."""
        images, seen = batch.images, batch.guesses()
        if seen.kept.shape not in ((len(images),), (len(images), 1)):
            raise UserError(f"the targets {tuple(seen.kept.shape)} are not one class for each image.")
        wrong, kept = seen.guess != seen.truth, seen.kept.flatten()
        columns = (seen.confidence, batch.places(len(images))[kept], seen.truth, seen.guess, kept.nonzero().flatten())
        new = [Mistake(*each) for each in zip(*(column[wrong].tolist() for column in columns), strict=True)]
        self.num_samples += len(wrong)
        self.num_mistakes += len(new)
        self._keep(new)
        # Only images that stay are made small, one by one: a batch of photos may take as much memory as there is.
        for each in self.mistakes:
            if isinstance(each.image, int):
                each.image = thumbnail(images[each.image], SIDE)

    def merge_state(self, other: "TopMistakes") -> None:
        """Take in those of another process."""
        self.num_samples += other.num_samples
        self.num_mistakes += other.num_mistakes
        self._keep(other.mistakes)

    def _keep(self, new: list[Mistake]) -> None:
        # The last digits depend on the number of processes and must not decide.
        def rank(mistake: Mistake) -> tuple[float, int]:
            return -round(mistake.confidence, 4), mistake.index

        self.mistakes = heapq.nsmallest(self.most, [*self.mistakes, *new], key=rank)


def viewable(images: Sequence[Tensor]) -> list[Tensor]:
    """Return images in [0, 1], each scaled by itself if they were normalised: K of (1 or 3, H, W) float32.

    Args:
        images: In [0, 1], in [0, 255], or normalised.
    """
    low = min((float(image.min()) for image in images), default=0.0)
    high = max((float(image.max()) for image in images), default=1.0)
    if low >= 0 and (high <= 1 or high > 16):
        return [image if high <= 1 else image / 255 for image in images]
    return [(image - image.min()) / (image.max() - image.min()).clamp(min=1e-12) for image in images]


def plot_mistakes(seen: TopMistakes, names: list[str], of_what: str) -> Any:
    """Return a figure: a grid of images with the true class, the guess and its probability.

    Args:
        seen: The mistakes.
        names: Of the classes; none where nobody knows them.
        of_what: In the title.
    """
    columns = min(max(math.ceil(math.sqrt(1.5 * len(seen.mistakes))), 4), 8)
    lines = max(-(-len(seen.mistakes) // columns), 1)
    images = [image.permute(1, 2, 0).numpy() for image in viewable([each.image for each in seen.mistakes])]
    sizes = [[1.2 * side / max(image.shape[:2]) for side in image.shape[:2]] for image in images]
    line = max((height for height, _ in sizes), default=1.2) + 0.45  # with its words
    figure = new_figure(1.3 * columns, line * lines + 0.4, margins=(0, 0, 0, 0.4))
    wrong = f"{seen.num_mistakes:,} of {seen.num_samples:,} are wrong; the most confident of them"
    figure.suptitle(f"{as_label(of_what)}: {wrong}")
    # One part of the figure for all images: one for each would take four times as long.
    axes = figure.add_subplot()
    axes.axis("off")
    for number, (image, mistake) in enumerate(zip(images, seen.mistakes, strict=True)):
        x, y = 1.3 * (number % columns) + 0.05, line * (number // columns) + 0.4
        height, width = sizes[number]
        axes.imshow(image, cmap="gray", vmin=0, vmax=1, extent=(x, x + width, y + height, y), interpolation="nearest")
        true, guess = (as_label(names[k] if k < len(names) else k, 24) for k in (mistake.truth, mistake.guess))
        text = f"true {true}\nguess {guess}, {mistake.confidence:.1%}"
        axes.text(x + width / 2, y - 0.05, text, fontsize=8, ha="center", va="bottom")
    axes.set(xlim=(0, 1.3 * columns), ylim=(line * lines, 0), aspect="auto")
    return figure
