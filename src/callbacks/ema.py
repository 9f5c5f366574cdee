"""An exponential moving average of the weights: named in YAML, see configs/callbacks/ema.yaml."""

from src.engine.lightning_fixes.trainer import EmaAlsoInTheTest


class Ema(EmaAlsoInTheTest):
    """Validates, tests and saves the average; trains the weights themselves.

    Args:
        decay: The part of the average that each step keeps.
    """

    def __init__(self, decay: float) -> None:
        super().__init__(decay=decay)
