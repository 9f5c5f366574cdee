"""Tells a user's mistake from a bug, and says it in a line or two."""

import difflib
import re
import traceback
from argparse import ArgumentParser
from pathlib import Path

from lightning.fabric.utilities.exceptions import MisconfigurationException


def is_a_users_mistake(error: BaseException) -> bool:
    """Whether the message says it all: Lightning's or our own word on the input, or the system's on a file."""
    raised_in = Path(traceback.extract_tb(error.__traceback__)[-1].filename)
    own = isinstance(error, ValueError) and Path(__file__).parent in raised_in.parents
    return own or isinstance(error, OSError | MisconfigurationException)


def explain(message: str, parser: ArgumentParser) -> str:
    """Shorten a parser's complaint.

    Args:
        message: What the parser says; of a wrong value for a union of types up to 15 lines.
        parser: Whose options to suggest from.
    """
    return message
