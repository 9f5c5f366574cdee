"""Leaves out what Lightning reports of its own workings, and warnings that a user can do nothing about."""

import logging
import warnings

from lightning.pytorch import Callback

# By the start of their text.
IDLE_WARNINGS = (
    r"`isinstance\(treespec, LeafSpec\)` is deprecated",  # Lightning on torch's pytree
    r"It is recommended to use `self.log\(.*sync_dist=True\)`",  # the means are reduced before they are logged
    r"The number of training batches .* is smaller than the logging interval",  # the default of a Lightning option
    r"'set_vital' is deprecated",  # torchdata on torch
    r"Lightning couldn't infer the indices fetched",  # the callback Predictions orders by rank
)


class Quiet(Callback):
    """Sets the filters. Other warnings stay.

    Args:
        enabled: Turn off to see everything.
    """

    def __init__(self, enabled: bool = True) -> None:
        if enabled:
            for name in ("lightning.pytorch", "lightning.fabric"):
                logging.getLogger(name).setLevel(logging.WARNING)
            for text in IDLE_WARNINGS:
                warnings.filterwarnings("ignore", text)
