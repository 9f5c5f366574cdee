"""A multi-layer perceptron for 28 x 28 images of ten classes."""

from torch import Tensor, nn


class MnistMLP(nn.Module):
    """Perceptron with one hidden layer; 203,530 parameters with the default width.

    Args:
        hidden: Hidden ReLU units.
    """

    def __init__(self, hidden: int = 256) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Flatten(), nn.Linear(28 * 28, hidden), nn.ReLU(), nn.Linear(hidden, 10))

    def forward(self, x: Tensor) -> Tensor:
        """Score the ten digits.

        Args:
            x: (B, 1, 28, 28) float32, normalised.

        Returns:
            (B, 10) float32 logits.
        """
        logits: Tensor = self.layers(x)
        return logits
