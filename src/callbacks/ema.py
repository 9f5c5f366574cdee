"""An exponential moving average of the weights: named in YAML, see configs/callbacks/ema.yaml."""

from lightning.pytorch.callbacks import EMAWeightAveraging

from src.engine.lightning_fixes.trainer import AverageAlsoInTheTest


class Ema(AverageAlsoInTheTest, EMAWeightAveraging):
    """Validates, tests and saves the average; trains the weights themselves.

    Args:
        decay: The part of the average that each step keeps.
    """

    def __init__(self, decay: float) -> None:
        super().__init__(decay=decay)
