"""The error that the template raises for a user's mistake; it imports nothing."""


class UserError(ValueError):
    """Reports a mistake in what a user gave: the message says what came, what is allowed, what to do.

    The command line prints it in one line. Raise it in your own code for the same; every other error of yours keeps its
    traceback.
    """


def one_line(error: BaseException) -> str:
    """Return the message of an error in one line."""
    return " ".join(str(error).split())
