"""A net for rows of numbers; your own layers go here."""

from torch import Tensor, nn


class RowsNet(nn.Module):
    """Perceptron with one hidden layer; 259 parameters with the default widths.

    Args:
        num_features: D, the numbers of a row.
        num_classes: C.
        hidden: Hidden ReLU units.
    """

    # Each argument is an option: `--model.net.hidden 64`, or in YAML under init_args.
    def __init__(self, num_features: int = 4, num_classes: int = 3, hidden: int = 32) -> None:
        super().__init__()
        # Your own layers go here. A net of a library needs no file: YAML names its class_path.
        self.layers = nn.Sequential(nn.Linear(num_features, hidden), nn.ReLU(), nn.Linear(hidden, num_classes))

    def forward(self, x: Tensor) -> Tensor:
        """Score the classes.

        Args:
            x: (B, D) float32.

        Returns:
            (B, C) float32 logits; softmax is part of the loss.
        """
        logits: Tensor = self.layers(x)
        return logits
