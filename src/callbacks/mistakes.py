"""The images that a classifier got wrong with the highest confidence: mistakes.png."""

import math
from typing import Any

from lightning.pytorch import LightningModule, Trainer

from src.engine.errors import UserError
from src.engine.loggers.evaluated import Evaluated
from src.engine.loggers.pictures import EvaluationPicture, as_label, class_names, new_figure, thumbnail

SIDE = 132  # pixels of the plot, for the longer side of an image


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
        seen.update(batch)

    def draw_seen(self, trainer: Trainer, module: LightningModule, seen: "TopMistakes", suffix: str) -> None:
        self.save(trainer, f"mistakes{suffix}", plot_mistakes(seen, class_names(trainer), self.title(suffix)))


class TopMistakes:
    """Keeps the most confident mistakes.

    Attributes:
        mistakes: (-confidence, index in the data, true class, guess, image) each; the index breaks ties. An image is
            (1 or 3, H, W) float32, at most SIDE pixels long.
    """

    def __init__(self, most: int) -> None:
        self.most = most
        self.mistakes: list[tuple[Any, ...]] = []
        self.num_mistakes = self.num_samples = 0

    def update(self, batch: Evaluated) -> None:
        """Take in a batch."""
        images, seen = batch.images, batch.guesses()
        if seen.kept.numel() != len(images):
            raise UserError(f"the targets {tuple(seen.kept.shape)} are not one class for each image.")
        wrong = seen.guess != seen.truth
        rows = seen.kept.flatten().nonzero().flatten()[wrong]
        # Rounded, since the last digits depend on the number of processes.
        confidence = [-round(value, 4) for value in seen.confidence[wrong].tolist()]
        columns = (batch.places(len(images))[rows], seen.truth[wrong], seen.guess[wrong])
        kept = (images[row] for row in rows.tolist())
        self._take([*zip(confidence, *(column.tolist() for column in columns), kept, strict=True)])
        self.num_mistakes += len(rows)
        self.num_samples += len(wrong)

    def merge_state(self, other: "TopMistakes") -> None:
        """Merge the mistakes that another process kept."""
        self._take(other.mistakes)
        self.num_mistakes += other.num_mistakes
        self.num_samples += other.num_samples

    def _take(self, new: list[tuple[Any, ...]]) -> None:
        first = sorted([*self.mistakes, *new], key=lambda mistake: mistake[:2])[: self.most]
        # One by one, and only those that stay: a batch of photos may fill the memory.
        self.mistakes = [(*numbers, thumbnail(image, SIDE)) for *numbers, image in first]


def plot_mistakes(seen: TopMistakes, names: list[str], title: str) -> Any:
    """Return a figure: a grid of images, each scaled from black to white, with the true class and the guess.

    Args:
        seen: The mistakes.
        names: Of the classes; none where nobody knows them.
        title: Of the figure, before the counts.
    """
    columns = min(max(math.ceil(math.sqrt(1.5 * len(seen.mistakes))), 4), 8)
    lines = max(-(-len(seen.mistakes) // columns), 1)
    figure = new_figure(1.5 * columns, 1.65 * lines + 0.4)
    counts = f"{seen.num_mistakes:,} of {seen.num_samples:,} are wrong"
    figure.suptitle(f"{as_label(title)}: {counts}; the most confident of them")
    axes = figure.add_subplot()  # one for all images: one for each would take four times as long
    axes.axis("off")
    for number, (confidence, _, *classes, image) in enumerate(seen.mistakes):
        image = image - image.min()
        pixels = (image / image.max().clamp(min=1e-12)).permute(1, 2, 0).numpy()
        x, y = number % columns + 0.5, number // columns + 0.27
        height, width = (0.8 * side / max(pixels.shape[:2]) for side in pixels.shape[:2])
        extent = (x - width / 2, x + width / 2, y + height / 1.1, y)
        axes.imshow(pixels, "gray", vmin=0, vmax=1, extent=extent, interpolation="nearest")
        true, guess = (as_label(names[k] if k < len(names) else k, 15) for k in classes)
        text = f"true {true}\nguess {guess}, {-confidence:.1%}"
        axes.text(x, y - 0.02, text, fontsize=7, ha="center", va="bottom")
    axes.set(xlim=(0, columns), ylim=(lines, 0), aspect=1.1)
    return figure
