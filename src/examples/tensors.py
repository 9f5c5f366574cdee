"""Shows a tensor, arithmetic on it, and a gradient. Run it with `python -m src tensors`."""

import torch
from torch import Tensor


def line(x: Tensor) -> Tensor:
    """Compute 2x + 1, element by element; any shape, the same shape back."""
    return 2 * x + 1


def parabola(a: Tensor) -> Tensor:
    """Compute a**2 + 2a + 1, whose slope is 2a + 2; any shape, the same shape back."""
    return a**2 + 2 * a + 1


def main(args: list[str]) -> None:
    """Print the values, and let autograd find the slope at a = 3."""
    x = torch.tensor([1.0, 2.0, 3.0])
    print(f"x = {x.tolist()}, shape {tuple(x.shape)}, {x.dtype}, on {x.device}")
    print(f"y = 2x + 1 = {line(x).tolist()}")
    a = torch.tensor(3.0, requires_grad=True)
    b = parabola(a)
    b.backward()  # type: ignore[no-untyped-call]
    assert a.grad is not None, "backward fills the gradient of a leaf"
    print(f"b = a**2 + 2a + 1 = {b.item():.0f} at a = {a.item():.0f}")
    print(f"db/da = {a.grad.item():.0f}")
