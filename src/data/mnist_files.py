"""MNIST's files: torchvision downloads, verifies and reads them; an error says what to do."""

from pathlib import Path

from filelock import FileLock
from torchvision.datasets import MNIST

from src.engine.errors import UserError


def download(source: type[MNIST], root: Path, mirror: str | None = None) -> None:
    """Download what is missing.

    Args:
        source: MNIST, or a data set in the same files.
        root: Folder in torchvision's layout; the files go to `<root>/<name>/raw`.
        mirror: Address of a folder with the packed files, in place of torchvision's own.

    Raises:
        UserError: If that fails.
    """
    raw = root / source.__name__ / "raw"
    if all((raw / name).with_suffix("").is_file() for name, _ in source.resources):
        return
    if mirror:
        source = type(source.__name__, (source,), {"mirrors": [mirror.rstrip("/") + "/"]})
    try:
        raw.mkdir(parents=True, exist_ok=True)
        with FileLock(raw / ".lock"):  # another run may download, too
            source(root, download=True)
    except (RuntimeError, OSError, ValueError, EOFError) as error:
        raise UserError(
            f"Cannot get {source.__name__} into {raw}: {' '.join(str(error).split())} Check the connection and the "
            "disk, set --data.root, set --data.mirror to an address (https://...), or put the packed files there."
        ) from error


def read(source: type[MNIST], root: Path, train: bool) -> MNIST:
    """Read the training images, or those of the test.

    Raises:
        UserError: If a file is damaged.
    """
    try:
        return source(root, train=train)
    except (RuntimeError, ValueError, AssertionError, EOFError) as error:
        raise UserError(
            f"The files in {root / source.__name__ / 'raw'} cannot be read ({error or type(error).__name__}). "
            "Delete that folder and run the same command again to download them."
        ) from error
