"""What the first layer of an image net looks for: first_layer.png."""

import math
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor, nn

from src.engine.errors import UserError
from src.engine.loggers.evaluated import Evaluated
from src.engine.loggers.pictures import EvaluationPicture, new_figure, thumbnail


PIXELS = 616  # that the picture has for all images of a line


class FirstLayer(EvaluationPicture):
    """Draws the weights of the first Linear or Conv2d layer, an image for each unit, those with the largest first.

    Args:
        most: How many units.
        layer: The layer's name, where it is not the first one: net.layers.1.
    """

    def __init__(self, most: int = 64, layer: str | None = None) -> None:
        super().__init__()
        self.most = most
        self.layer = layer

    def begin(self) -> "Shape":
        return Shape()

    def draw_all(self, trainer: Trainer, module: LightningModule, seen: dict[str, Any]) -> None:
        shape = next(iter(seen.values())).shape
        layer = self._find(module)
        self.save(trainer, "first_layer", plot_units(units(layer, shape, self.most), layer.weight.shape[0]))

    def _find(self, module: LightningModule) -> nn.Linear | nn.Conv2d:
        known = {n: part for n, part in module.named_modules() if isinstance(part, nn.Linear | nn.Conv2d)}
        name = self.layer or next(iter(known), None)
        if name not in known:
            raise UserError(
                f"there is no Linear or Conv2d layer {name or ''}; there are: {', '.join(known) or 'none'}."
            )
        return known[name]


class Shape:
    """The shape of an image, (1 or 3, H, W), from the first batch."""

    def __init__(self) -> None:
        self.shape: tuple[int, ...] = ()

    def add(self, batch: Evaluated) -> None:
        """Look at the first one only."""
        self.shape = self.shape or tuple(batch.images.shape[1:])

    def merge(self, other: "Shape") -> None:
        """All processes have the same."""


def units(layer: nn.Linear | nn.Conv2d, shape: tuple[int, ...], most: int) -> Tensor:
    """(N, 1 or 3, H, W) the weights of each unit as an image, those with the largest first.

    Args:
        layer: The first one; of photos it has millions of weights for each unit.
        shape: Of the images, (1 or 3, H, W).
        most: N, where there are so many.
    """
    weights = layer.weight.detach()
    if isinstance(layer, nn.Linear):
        if layer.in_features != math.prod(shape):
            raise UserError(
                f"the layer takes {layer.in_features} numbers, the images have {' x '.join(map(str, shape))}."
            )
        weights = weights.reshape(-1, *shape)
    if weights.shape[1] not in (1, 3):
        weights = weights.mean(dim=1, keepdim=True)
    sizes = torch.stack([torch.linalg.vector_norm(unit, dtype=torch.float32) for unit in weights])
    first = sizes.argsort(descending=True, stable=True)[:most].tolist()
    side = 2 * PIXELS // math.ceil(math.sqrt(len(first)))
    return torch.stack([thumbnail(weights[k], max(side, 1)) for k in first])


def plot_units(images: Tensor, total: int) -> Any:
    """A figure: units side by side; of one channel red is for more, blue for less, of three each has its colours.

    Args:
        images: (N, 1 or 3, H, W).
        total: Of how many units they are the largest.
    """
    columns = math.ceil(math.sqrt(len(images)))
    lines = -(-len(images) // columns)
    grey = images.shape[1] == 1
    height = 5.6 * lines / columns * images.shape[2] / images.shape[3]
    figure = new_figure(6.6 if grey else 5.8, height + 0.5, margins=(0.1, 0.1, 0.9 if grey else 0.1, 0.4))
    axes = figure.add_subplot()
    axes.axis("off")
    axes.set_title(f"first layer: weights of {len(images)} of {total} units, the largest first", fontsize="medium")
    if grey:
        limit = float(images.abs().flatten(1).amax(dim=1).median())  # a single large weight would make all others pale
        shown = axes.imshow(
            mosaic(images, columns, float("nan"))[0].numpy(),
            cmap="RdBu_r",
            vmin=-limit,
            vmax=limit,
            interpolation="nearest",
        )
        figure.colorbar(shown, cax=axes.inset_axes((1.02, 0, 0.03, 1)), extend="both")
    else:
        low, high = images.amin(dim=(1, 2, 3), keepdim=True), images.amax(dim=(1, 2, 3), keepdim=True)
        axes.imshow(mosaic((images - low) / (high - low).clamp(min=1e-12), columns, 1.0).permute(1, 2, 0).numpy())
    return figure


def mosaic(images: Tensor, columns: int, between: float) -> Tensor:
    """(C, H_all, W_all) images side by side, line by line.

    Args:
        images: (N, C, H, W).
        columns: Images in a line.
        between: What fills the gaps.
    """
    lines = -(-len(images) // columns)
    gap = max(images.shape[-1] // 14, 1)
    padded = nn.functional.pad(images, (0, gap, 0, gap), value=between)
    empty = torch.full((lines * columns - len(images), *padded.shape[1:]), between)
    grid = torch.cat([padded, empty]).unflatten(0, (lines, columns))
    return grid.permute(2, 0, 3, 1, 4).flatten(3, 4).flatten(1, 2)
