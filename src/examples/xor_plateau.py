"""Trains XOR from 500 seeds at once, and draws who leaves the plateau: `python -m src xor_plateau`.

The loss stays near 0.69 until a hidden unit breaks the symmetry; more units break it sooner. Of 500 seeds 4 hidden
units solve XOR 344 times, 8 units 487 times, 16 and 32 always.
Half of the seeds leave the plateau by step 40, 27, 20 and 13.
"""

from argparse import ArgumentParser, RawDescriptionHelpFormatter
from pathlib import Path

import torch
from jsonargparse.typing import PositiveInt
from matplotlib.figure import Figure
from torch import Tensor, nn
from torch.func import functional_call, grad_and_value, stack_module_state, vmap

from src.data.xor import INPUTS, TARGETS
from src.models.xor import XorMLP

LR = 0.5
# A net that says "one half" to all four rows has a loss of 0.693; well below that it has begun to tell them apart.
PLATEAU, LEFT = 0.693, 0.6


def net(hidden: int, seed: int) -> nn.Module:
    """Make the net of configs/xor.yaml, with the weights that a run of this seed begins with."""
    torch.manual_seed(seed)
    return XorMLP(hidden)


def train(hidden: int, num_seeds: int, num_steps: int) -> tuple[Tensor, Tensor]:
    """Train one net per seed 0, 1, ... at once: the weights are stacked, so one call steps every net.

    Returns:
        The losses (T, S) float32 of T steps and S seeds, each before its step, as a hand-written loop prints it; and
        whether all four hard predictions are right there, (T, S) bool.
    """
    nets = [net(hidden, seed) for seed in range(num_seeds)]
    weights, _ = stack_module_state(nets)  # each (S, ...)

    def loss(weights: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        logits = functional_call(nets[0], weights, (INPUTS,))
        return nn.functional.binary_cross_entropy_with_logits(logits, TARGETS), ((logits > 0) == TARGETS).all()

    step = vmap(grad_and_value(loss, has_aux=True))
    losses, solved = [], []
    with torch.no_grad():
        for _ in range(num_steps):
            gradients, (values, right) = step(weights)
            weights = {name: value - LR * gradients[name] for name, value in weights.items()}
            losses.append(values)
            solved.append(right)
    return torch.stack(losses), torch.stack(solved)


def left_at(losses: Tensor) -> Tensor:
    """Return the step (S,) float32 from which the loss (T, S) stays below `LEFT`; infinite if it never does."""
    steps = torch.arange(1, len(losses) + 1).unsqueeze(1)  # (T, 1)
    after = ((losses >= LEFT) * steps).amax(dim=0) + 1.0  # the step after the last that is high
    return after.where(after <= len(losses), torch.inf)


def draw(fits: dict[int, tuple[Tensor, Tensor]]) -> Figure:
    """Make a figure with the losses of each width, and with the share of seeds that solve it by each step."""
    figure = Figure(figsize=(1.8 * (len(fits) + 1.6), 2.4), layout="constrained")
    axes = figure.subplots(1, len(fits) + 1, width_ratios=[1] * len(fits) + [1.1])
    for number, (axis, (hidden, (losses, solved))) in enumerate(zip(axes, fits.items(), strict=False)):
        steps = range(1, len(losses) + 1)
        axis.axhline(PLATEAU, color="0.6", linestyle=":")
        axis.plot(steps, losses, color=f"C{number}", alpha=0.12, linewidth=0.5)
        axis.plot(steps, losses.median(dim=1).values, color="black", label="median")
        axis.set(title=f"{hidden} hidden", xlabel="step", xscale="log", ylim=(0, 1))
        axes[-1].plot(steps, 100 * solved.float().mean(dim=1), color=f"C{number}", label=str(hidden))
    axes[0].set(ylabel="loss")
    axes[0].legend(frameon=False)
    axes[-1].set(title="solved, % of seeds", xlabel="step", xscale="log", ylim=(0, 102))
    axes[-1].legend(title="hidden", frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))
    return figure


def main(args: list[str]) -> None:
    """Train each width, print a table, write the picture."""
    parser = ArgumentParser(
        "python -m src xor_plateau", description=__doc__, formatter_class=RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--hidden", type=PositiveInt, nargs="+", default=[4, 8, 16, 32], help="hidden units, a net for each"
    )
    parser.add_argument("--seeds", type=PositiveInt, default=500, help="0 to one less")
    parser.add_argument("--steps", type=PositiveInt, default=2_000)
    parser.add_argument("--to", type=Path, default=Path("runs/xor_plateau.png"), help="the picture")
    given = parser.parse_args(args)
    given.to.parent.mkdir(parents=True, exist_ok=True)
    fits = {}
    print("hidden  solved      plateau left at step (median)  never left")
    for hidden in given.hidden:
        fits[hidden] = losses, solved = train(hidden, given.seeds, given.steps)
        left, share = left_at(losses), f"{int(solved[-1].sum())}/{given.seeds}"
        print(f"{hidden:>6}  {share:<10}  {left.median():<29g}  {int(left.isinf().sum())}", flush=True)
    draw(fits).savefig(given.to, dpi=110)
    print(f"drawn {given.to}")
