"""Standard output and error that outlive their reader: `| head -1` ends the printing, not the run."""

import errno
import io
import os
import sys

GONE = (errno.EPIPE, errno.EIO)  # a pipe without a reader, a terminal that was closed


class Outliving(io.TextIOWrapper):
    """A stream that goes to nowhere once nobody reads it."""

    def write(self, text: str) -> int:
        """Write; a name that the terminal cannot show is written by its number."""
        try:
            return super().write(text)
        except OSError as error:
            self._go_nowhere(error)
            return len(text)

    def flush(self) -> None:
        try:
            super().flush()
        except OSError as error:
            self._go_nowhere(error)

    def _go_nowhere(self, error: OSError) -> None:
        if error.errno not in GONE:
            raise error
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, self.fileno())
        os.close(nowhere)


def outlive_the_reader() -> None:
    """Take both streams over; where there is no such stream, as in a windowed program, there is nothing to do."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if isinstance(stream, io.TextIOWrapper):
            line_buffering, encoding = stream.line_buffering, stream.encoding
            made = Outliving(stream.detach(), encoding, errors="backslashreplace", line_buffering=line_buffering)
            setattr(sys, name, made)
            setattr(sys, f"__{name}__", made)  # the old one is of no use any more
