"""The images that a classifier was surest about and wrong: mistakes.png."""

import math
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor

from src.engine.errors import UserError
from src.engine.loggers.evaluated import Evaluated
from src.engine.loggers.pictures import EvaluationPicture, as_label, class_names, new_figure, thumbnail

SIDE = 132  # pixels that the picture has for the longer side of an image


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
        of_what = f"{self.of_what}{suffix.replace('_', ' ')}"
        self.save(trainer, f"mistakes{suffix}", plot_mistakes(seen, class_names(trainer), of_what))


class Surest:
    """The mistakes so far, the surest first; of equally sure ones that which comes first in the data.

    Attributes:
        images: K of (1 or 3, H, W), as the net saw them, but at most SIDE pixels long.
        rows: (K, 7) float64: sureness, place in the data, true class, guess; and of the image as it was its smallest and
            its largest value, and whether all are whole.
        num_mistakes: Of all samples.
        num_samples: All.
    """

    def __init__(self, most: int) -> None:
        self.most = most
        self.images: list[Tensor] = []
        self.rows = torch.empty(0, 7, dtype=torch.float64)
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
        rows = torch.stack([sure, places.double(), seen.truth.double(), seen.guess.double()], dim=1)[wrong]
        which = seen.kept.flatten().nonzero().flatten()[wrong]
        # Only images that stay are made small, one by one: a batch of photos may take as much memory as there is.
        known = len(self.rows)
        first = order(torch.cat([self.rows[:, :4], rows]))[: self.most]
        first = first[first >= known] - known
        new = [images[k] for k in which[first].tolist()]
        self._keep([thumbnail(image, SIDE) for image in new], torch.cat([rows[first], scales(new)], dim=1))

    def merge(self, other: "Surest") -> None:
        """Take those of another process, too."""
        self.num_samples += other.num_samples
        self.num_mistakes += other.num_mistakes
        self._keep(other.images, other.rows)

    def _keep(self, images: list[Tensor], rows: Tensor) -> None:
        images, rows = [*self.images, *images], torch.cat([self.rows, rows])
        first = order(rows)[: self.most]
        self.images, self.rows = [images[k] for k in first.tolist()], rows[first]


def order(rows: Tensor) -> Tensor:
    """(K,) int64, the surest first and among equals the first in the data."""
    by_place = rows[:, 1].argsort(stable=True)
    return by_place[rows[by_place, 0].argsort(descending=True, stable=True)]


def scales(images: Iterable[Tensor]) -> Tensor:
    """(K, 3) float64 the smallest and the largest value of each image, and whether all are whole."""
    floats = (image.float() for image in images)
    rows = [(*map(float, each.aminmax()), bool((each == each.round()).all())) for each in floats]
    return torch.tensor(rows, dtype=torch.float64).reshape(-1, 3)


def viewable(images: Sequence[Tensor], scale: Tensor) -> list[Tensor]:
    """Images brought to [0, 1], each by itself where they were normalised: K of (1 or 3, H, W) float32 both.

    Args:
        images: In [0, 1], in [0, 255], or normalised.
        scale: (K, 3) as `scales` gave it before they were made small.
    """
    low, high, whole = scale.unbind(dim=1)
    if bool((low >= 0).all()) and bool((high <= 1).all()):
        return list(images)
    if bool((low >= 0).all()) and bool((high > 16).any()) and bool(whole.all()):
        return [image / 255 for image in images]
    return [(image - image.min()) / (image.max() - image.min()).clamp(min=1e-12) for image in images]


def plot_mistakes(seen: Surest, names: list[str], of_what: str) -> Any:
    """A figure: a grid of images, over each of them the true class, the guess and how sure it was.

    Args:
        seen: The mistakes.
        names: Of the classes; none where nobody knows them.
        of_what: In the title.
    """
    columns = min(max(math.ceil(math.sqrt(1.5 * len(seen.rows))), 4), 8)
    lines = max(-(-len(seen.rows) // columns), 1)
    images = [image.permute(1, 2, 0).numpy() for image in viewable(seen.images, seen.rows[:, 4:])]
    sizes = [[1.2 * side / max(image.shape[:2]) for side in image.shape[:2]] for image in images]
    line = max((height for height, _ in sizes), default=1.2) + 0.45  # with its words
    figure = new_figure(1.3 * columns, line * lines + 0.4, margins=(0, 0, 0, 0.4))
    wrong = f"{seen.num_mistakes:,} of {seen.num_samples:,} are wrong; the surest of them"
    figure.suptitle(f"{as_label(of_what)}: {wrong}")
    # One part of the figure for all images: one for each would take four times as long.
    axes = figure.add_subplot()
    axes.axis("off")
    for number, (image, (sure, _, truth, guess, *_)) in enumerate(zip(images, seen.rows.tolist(), strict=True)):
        x, y = 1.3 * (number % columns) + 0.05, line * (number // columns) + 0.4
        height, width = sizes[number]
        axes.imshow(image, cmap="gray", vmin=0, vmax=1, extent=(x, x + width, y + height, y), interpolation="nearest")
        true, guessed = (as_label(names[int(k)] if int(k) < len(names) else int(k), 24) for k in (truth, guess))
        said = f"true {true}\nguess {guessed}, {sure:.1%}"
        axes.text(x + width / 2, y - 0.05, said, fontsize=8, ha="center", va="bottom")
    axes.set(xlim=(0, 1.3 * columns), ylim=(line * lines, 0), aspect="auto")
    return figure
