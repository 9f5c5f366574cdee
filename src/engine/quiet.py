"""Leaves out what says nothing to a user."""

import logging
import warnings

# By the start of their text.
IDLE_WARNINGS = (
    # Lightning on torch's pytree. Lightning issue 21326, closed with a filter for Lightning's own tests.
    r"`isinstance\(treespec, LeafSpec\)` is deprecated",
    # It complains of the default of its own option.
    r"The number of training batches .* is smaller than the logging interval",
)


class Quiet:
    """Leaves out what Lightning reports of its own workings, and warnings that a user can do nothing about.

    Args:
        enabled: Turn off to see everything.
    """

    def __init__(self, enabled: bool = True) -> None:
        if enabled:
            for name in ("lightning.pytorch", "lightning.fabric"):
                logging.getLogger(name).setLevel(logging.WARNING)
            for text in IDLE_WARNINGS:
                warnings.filterwarnings("ignore", text)
