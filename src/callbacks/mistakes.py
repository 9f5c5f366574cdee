"""The images that a classifier got wrong with the highest confidence: mistakes.png."""

import math
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from torch import Tensor
from torchvision.transforms.v2.functional import resize

from src.engine.data.batches import describe, parts
from src.engine.errors import UserError
from src.engine.loggers.pictures import Evaluated, EvaluationPicture, as_label, class_names, new_figure

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
        fits = (p for p in parts(batch.batch) if isinstance(p, Tensor) and p.dim() == 4 and p.shape[1] in (1, 3))
        if (images := next(fits, None)) is None:
            raise UserError(f"there are no images (B, 1 or 3, H, W) in the batch, which was {describe(batch.batch)}.")
        scores, truth = batch.classes()
        if truth.numel() != len(images):
            raise UserError(f"the targets {tuple(truth.shape)} are not one class for each image.")
        truth, (confidence, guess) = truth.flatten(), scores.flatten(1).max(dim=1)
        rows = ((guess != truth) & (truth >= 0)).nonzero().flatten()
        # Rounded, since the last digits depend on the number of processes.
        columns = (-confidence.double().round(decimals=4), batch.places(len(images)), truth, guess)
        found = zip(*(column[rows].tolist() for column in columns), map(images.__getitem__, rows), strict=True)
        seen.merge_state(list(found))

    def draw_seen(self, trainer: Trainer, module: LightningModule, seen: "TopMistakes", suffix: str) -> None:
        self.save(trainer, f"mistakes{suffix}", plot_mistakes(seen, class_names(trainer), self.title(suffix)))


class TopMistakes(list[tuple[Any, ...]]):
    """Keeps the most confident mistakes.

    Each is (-confidence, index in the data, true class, guess, image); the index breaks ties. An image is
    (1 or 3, H, W) float32, at most SIDE pixels long.
    """

    def __init__(self, most: int) -> None:
        super().__init__()
        self.most = most

    def merge_state(self, others: list[tuple[Any, ...]]) -> None:
        """Keep the most confident of these and of others."""
        first = sorted([*self, *others], key=lambda mistake: mistake[:2])[: self.most]
        # One by one, and only those that stay: a batch of photos may fill the memory.
        self[:] = [(*numbers, thumbnail(image)) for *numbers, image in first]


def thumbnail(image: Tensor) -> Tensor:
    """Return a copy (C, H, W) float32 on the CPU that is at most SIDE pixels long."""
    image = image.detach().float()
    return (image if max(image.shape[1:]) <= SIDE else resize(image, None, max_size=SIDE)).to("cpu", copy=True)


def plot_mistakes(seen: TopMistakes, names: list[str], title: str) -> Any:
    """Return a figure: a grid of images, each scaled from black to white, with the true class and the guess.

    Args:
        seen: The mistakes.
        names: Of the classes; none where nobody knows them.
        title: Of the figure, before their number.
    """
    columns = min(max(math.ceil(math.sqrt(1.5 * len(seen))), 4), 8)
    lines = max(-(-len(seen) // columns), 1)
    figure = new_figure(1.5 * columns, 1.65 * lines + 0.4)
    figure.suptitle(f"{as_label(title)}: {f'the {len(seen)} most confident' if seen else 'no'} mistakes")
    axes = figure.add_subplot()  # one for all images: one for each would take four times as long
    axes.axis("off")
    for number, (confidence, _, *classes, image) in enumerate(seen):
        image = image - image.min()
        pixels = (image / image.max().clamp(min=1e-12)).permute(1, 2, 0).numpy()
        x, y = number % columns + 0.5, number // columns + 0.27
        height, width = (0.8 * side / max(pixels.shape[:2]) for side in pixels.shape[:2])
        extent = (x - width / 2, x + width / 2, y + height / 1.1, y)
        axes.imshow(pixels, "gray", vmin=0, vmax=1, extent=extent, interpolation="nearest")
        true, guess = (as_label(names[k] if k < len(names) else k, 12) for k in classes)
        text = f"true {true}\nguess {guess}, {-confidence:.1%}"
        axes.text(x, y - 0.02, text, fontsize=7, ha="center", va="bottom")
    axes.set(xlim=(0, columns), ylim=(lines, 0), aspect=1.1)
    return figure
