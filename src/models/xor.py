"""A net for XOR: two inputs, a few hidden units, one output."""

from torch import Tensor, nn


class XorMLP(nn.Module):
    """Perceptron with one hidden layer; 17 parameters with the default width.

    Args:
        hidden: Hidden ReLU units, at least 2 to solve XOR.
    """

    def __init__(self, hidden: int = 4) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(2, hidden), nn.ReLU(), nn.Linear(hidden, 1))

    def forward(self, x: Tensor) -> Tensor:
        """Score whether exactly one of the two inputs is on.

        Args:
            x: (B, 2) float32, each 0 or 1.

        Returns:
            (B, 1) float32 logits.
        """
        logits: Tensor = self.layers(x)
        return logits
