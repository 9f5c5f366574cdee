"""Draw the first layer of an image net: first_layer.png."""

import math
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor, nn
from torchvision.utils import make_grid

from src.engine.data.batches import parts
from src.engine.errors import UserError
from src.engine.loggers.pictures import Picture, new_figure


class FirstLayer(Picture):
    """Draws the weights of the first Linear or Conv2d layer: one image per unit, sorted by weight norm.

    Args:
        most: How many units.
        layer: The layer's name, where it is not the first one: net.layers.1.
    """

    def __init__(self, most: int = 64, layer: str | None = None) -> None:
        self.most = most
        self.layer = layer
        self._shape: tuple[int, ...] = ()  # (1 or 3, H, W), of an input image

    def on_test_batch_end(self, trainer: Trainer, module: LightningModule, outputs: Any, batch: Any, *_: int) -> None:
        for part in parts(batch) if not self._shape else ():
            if isinstance(part, Tensor) and part.dim() == 4 and part.shape[1] in (1, 3):
                self._shape = tuple(part.shape[1:])

    on_validation_batch_end = on_test_batch_end

    def draw(self, trainer: Trainer, module: LightningModule) -> None:
        known = {n: part for n, part in module.named_modules() if isinstance(part, nn.Linear | nn.Conv2d)}
        layer = known.get(self.layer or next(iter(known), ""))
        if layer is None:
            there = ", ".join(known) or "none"
            raise UserError(f"there is no Linear or Conv2d layer {self.layer or ''}; there are: {there}.")
        if not self._shape:
            raise UserError("there are no images (B, 1 or 3, H, W) in the batches.")
        images = units(layer, self._shape, self.most)
        self.save(trainer, "first_layer", plot_units(images, layer.weight.shape[0]))


def units(layer: nn.Linear | nn.Conv2d, shape: tuple[int, ...], most: int) -> Tensor:
    """Return the weights of each unit as an image, (N, 1 or 3, H, W), those with the largest norm first.

    Args:
        layer: The layer.
        shape: Of an input image, (1 or 3, H, W).
        most: N, if there are so many.
    """
    weights = layer.weight.detach()
    if isinstance(layer, nn.Linear):
        if layer.in_features != math.prod(shape):
            raise UserError(f"the layer takes {layer.in_features} numbers, the images have {shape}.")
        weights = weights.unflatten(1, shape)
    if weights.shape[1] not in (1, 3):
        weights = weights.mean(dim=1, keepdim=True)
    first = weights.flatten(1).norm(dim=1, dtype=torch.float32).argsort(descending=True, stable=True)[:most]
    return weights[first].float().cpu()


def plot_units(images: Tensor, total: int) -> Any:
    """Return a figure of units side by side: one channel from blue (negative) to red, three channels in their colours.

    Args:
        images: (N, 1 or 3, H, W).
        total: The number of units, of which these are the largest.
    """
    limit = float(images.abs().flatten(1).amax(dim=1).median())  # a single large weight would make all others pale
    is_grey = images.shape[1] == 1
    gap, pad = max(images.shape[-1] // 14, 1), math.nan if is_grey else 1.0
    colors = {"normalize": not is_grey, "value_range": (-limit, limit)}
    grid = make_grid(images, math.ceil(math.sqrt(len(images))), padding=gap, pad_value=pad, **colors)
    figure = new_figure(6.5, 5.6 * grid.shape[1] / grid.shape[2] + 0.5)
    axes = figure.add_subplot()
    axes.axis("off")
    axes.set_title(f"first layer: weights of {len(images)} of {total} units, the largest first", fontsize="medium")
    if is_grey:
        shown = axes.imshow(grid[0].numpy(), cmap="RdBu_r", vmin=-limit, vmax=limit, interpolation="nearest")
        figure.colorbar(shown, extend="both")
    else:
        axes.imshow(grid.permute(1, 2, 0).numpy())
    return figure
