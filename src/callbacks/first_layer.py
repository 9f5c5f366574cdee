"""Draw the first layer of an image net: first_layer.png."""

import math
from dataclasses import dataclass
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor, nn
from torchvision.utils import make_grid

from src.engine.errors import UserError
from src.engine.loggers.pictures import EvaluationPicture, Evaluated, new_figure, thumbnail

PIXELS = 616  # of the picture, for all images of a line


class FirstLayer(EvaluationPicture):
    """Draws the weights of the first Linear or Conv2d layer: one image per unit, sorted by weight norm.

    Args:
        most: How many units.
        layer: The layer's name, where it is not the first one: net.layers.1.
    """

    def __init__(self, most: int = 64, layer: str | None = None) -> None:
        super().__init__()
        self.most = most
        self.layer = layer

    def begin(self, batch: Evaluated) -> "Shape":
        return Shape(tuple(batch.images.shape[1:]))

    def add(self, seen: "Shape", batch: Evaluated) -> None:
        """Do nothing: the first batch has all."""

    def draw_seen(self, trainer: Trainer, module: LightningModule, seen: Any, suffix: str) -> None:
        known = {n: part for n, part in module.named_modules() if isinstance(part, nn.Linear | nn.Conv2d)}
        layer = known.get(self.layer or next(iter(known), ""))
        if layer is None:
            there = ", ".join(known) or "none"
            raise UserError(f"there is no Linear or Conv2d layer {self.layer or ''}; there are: {there}.")
        images = units(layer, seen.shape, self.most)
        self.save(trainer, "first_layer", plot_units(images, layer.weight.shape[0]))


@dataclass
class Shape:
    """The shape of an image, (1 or 3, H, W), from the first batch."""

    shape: tuple[int, ...]

    def merge_state(self, other: "Shape") -> None:
        """Do nothing: all processes have the same."""


def units(layer: nn.Linear | nn.Conv2d, shape: tuple[int, ...], most: int) -> Tensor:
    """Return the weights of each unit as an image, (N, 1 or 3, H, W), those with the largest norm first.

    Args:
        layer: The first one; for photos it has millions of weights per unit.
        shape: Of the images, (1 or 3, H, W).
        most: N, if there are so many.
    """
    weights = layer.weight.detach()
    if isinstance(layer, nn.Linear):
        if layer.in_features != math.prod(shape):
            given = " x ".join(map(str, shape))
            raise UserError(f"the layer takes {layer.in_features} numbers, the images have {given}.")
        weights = weights.reshape(-1, *shape)
    if weights.shape[1] not in (1, 3):
        weights = weights.mean(dim=1, keepdim=True)
    norms = torch.stack([torch.linalg.vector_norm(unit, dtype=torch.float32) for unit in weights])
    first = norms.argsort(descending=True, stable=True)[:most].tolist()
    side = 2 * PIXELS // math.ceil(math.sqrt(len(first)))
    return torch.stack([thumbnail(weights[k], max(side, 1)) for k in first])


def plot_units(images: Tensor, total: int) -> Any:
    """Return a figure of units side by side: one channel from blue (negative) to red, three channels in their colours.

    Args:
        images: (N, 1 or 3, H, W).
        total: The number of units, of which these are the largest.
    """
    columns = math.ceil(math.sqrt(len(images)))
    is_grey = images.shape[1] == 1
    if not is_grey:
        low, high = images.amin(dim=(1, 2, 3), keepdim=True), images.amax(dim=(1, 2, 3), keepdim=True)
        images = (images - low) / (high - low).clamp(min=1e-12)
    gap = max(images.shape[-1] // 14, 1)
    grid = make_grid(images, columns, padding=gap, pad_value=math.nan if is_grey else 1.0)
    figure = new_figure(6.6 if is_grey else 5.8, 5.6 * grid.shape[1] / grid.shape[2] + 0.5, (0.1, 0.1, 0.9, 0.4))
    axes = figure.add_subplot()
    axes.axis("off")
    axes.set_title(f"first layer: weights of {len(images)} of {total} units, the largest first", fontsize="medium")
    if is_grey:
        limit = float(images.abs().flatten(1).amax(dim=1).median())  # a single large weight would make all others pale
        shown = axes.imshow(grid[0].numpy(), cmap="RdBu_r", vmin=-limit, vmax=limit, interpolation="nearest")
        figure.colorbar(shown, cax=axes.inset_axes((1.02, 0, 0.03, 1)), extend="both")
    else:
        axes.imshow(grid.permute(1, 2, 0).numpy())
    return figure
