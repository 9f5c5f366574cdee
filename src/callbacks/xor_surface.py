"""The XOR decision surface, surface.png, and its evolution during training, surface_growth.png."""

from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor

from src.data.xor import INPUTS, TARGETS
from src.engine.loggers.pictures import Picture, new_figure

LOW, HIGH, SIDE = -0.5, 1.5, 81  # with that many, the four points are points of the grid
STAGES = (0, 25, 50, 75, 100, 150, 250, 500, 1000)  # steps; 0 is before the first


class XorSurface(Picture):
    """Draws the output over the plane around XOR's four points, at the end and at some steps on the way."""

    def __init__(self) -> None:
        self._surfaces: dict[int, Tensor] = {}  # by the step

    def state_dict(self) -> dict[str, Any]:
        return {"surfaces": self._surfaces}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        # The test after a fit loads the best checkpoint, which may lack later stages.
        self._surfaces = state["surfaces"] | self._surfaces

    def on_train_batch_start(self, trainer: Trainer, module: LightningModule, batch: Any, batch_idx: int) -> None:
        if trainer.global_step in STAGES:
            self._surfaces[trainer.global_step] = surface(module)

    def on_train_end(self, trainer: Trainer, module: LightningModule) -> None:
        self._surfaces[trainer.global_step] = surface(module)

    def draw(self, trainer: Trainer, module: LightningModule) -> None:
        self.save(trainer, "surface", plot_surface(surface(module)))
        if self._surfaces:  # else nothing was trained
            self.save(trainer, "surface_growth", plot_growth(dict(sorted(self._surfaces.items()))))


def surface(module: LightningModule) -> Tensor:
    """Return the probability of a 1 over the plane, (SIDE, SIDE) float32: row by row upwards, from left to right."""
    ticks = torch.linspace(LOW, HIGH, SIDE)
    points = torch.stack(torch.meshgrid(ticks, ticks, indexing="xy"), dim=-1).reshape(-1, 2)
    with torch.no_grad():
        return module(points.to(next(module.parameters()))).sigmoid().reshape(SIDE, SIDE).float().cpu()


def _paint(axes: Any, values: Tensor, size: float) -> Any:
    """Draw a surface, the line at one half, and the four points in the colours of their targets."""
    extent, colors = (LOW, HIGH, LOW, HIGH), {"cmap": "coolwarm", "vmin": 0, "vmax": 1}
    shown = axes.imshow(values, origin="lower", extent=extent, interpolation="bilinear", **colors)
    if values.min() < 0.5 < values.max():
        axes.contour(values, [0.5], origin="lower", extent=extent, colors="black", linewidths=1)
    axes.scatter(*INPUTS.T.numpy(), c=TARGETS[:, 0].numpy(), s=size, edgecolors="white", zorder=3, **colors)
    return shown


def plot_surface(values: Tensor) -> Any:
    """Return a figure of the plane, with (SIDE, SIDE) `values` as `surface` gives them."""
    figure = new_figure(5.2, 4.2)
    axes = figure.add_subplot(title="XOR: what the net has learned", xlabel="first input", ylabel="second input")
    shown = _paint(axes, values, 200)
    axes.set(xticks=(0, 1), yticks=(0, 1))
    for point, target in zip(INPUTS.tolist(), TARGETS[:, 0].tolist(), strict=True):
        axes.annotate(f"{target:.0f}", point, color="white", ha="center", va="center", zorder=4)
    figure.colorbar(shown, label="probability of a 1")
    return figure


def plot_growth(stages: dict[int, Tensor]) -> Any:
    """Return a figure of the plane at several steps, side by side, with each step's `surface`."""
    figure = new_figure(1.35 * len(stages) + 0.1, 1.6)
    for axes, (step, values) in zip(figure.subplots(1, len(stages), squeeze=False)[0], stages.items(), strict=True):
        _paint(axes, values, 25)
        axes.set_title(f"step {step:,}", fontsize="small")
        axes.set(xticks=(), yticks=())
    return figure
