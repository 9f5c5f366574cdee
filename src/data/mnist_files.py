"""MNIST's files: torchvision downloads and verifies them; errors say what to do."""

import hashlib
import shutil
from pathlib import Path

from filelock import FileLock
from torchvision.datasets import MNIST

from src.engine.errors import UserError


def download(source: type[MNIST], root: Path, mirror: str | None = None) -> None:
    """Fetch what is missing.

    Args:
        source: The data set: MNIST, or one that keeps its data in the same files.
        root: Folder in torchvision's layout; the files go to `<root>/<name>/raw`.
        mirror: A folder with the packed files, or its address, in place of torchvision's own.

    Raises:
        UserError: If that fails.
    """
    raw, names = root / source.__name__ / "raw", [name for name, _ in source.resources]
    if all((raw / name).with_suffix("").is_file() for name in names):
        return
    folder = Path(mirror).expanduser() if mirror and "://" not in mirror else None
    if folder and not folder.is_dir():
        raise UserError(f"mirror={mirror} is neither a folder here nor an address (https://...). Set --data.mirror.")
    if mirror and not folder:
        source = type(source.__name__, (source,), {"mirrors": [mirror.rstrip("/") + "/"]})
    try:
        raw.mkdir(parents=True, exist_ok=True)
        with FileLock(raw / ".lock"):  # another run may download, too
            for name in names if folder else []:
                shutil.copy(folder / name, raw)
            source(root, download=True)
    except (RuntimeError, OSError, EOFError) as error:
        raise UserError(
            f"Cannot get {source.__name__} into {raw}: {' '.join(str(error).split())} Check the connection and the "
            f"disk, set --data.root or --data.mirror, or put the files {', '.join(names)} there."
        ) from error


def read(source: type[MNIST], root: Path, train: bool) -> MNIST:
    """Read the training images, or those of the test.

    Raises:
        UserError: If the files are no images and labels of this data set.
    """
    try:
        data = source(root, train=train)
        images, labels, most = len(data.data), len(data.targets), int(data.targets.max())
        if images != labels or most >= len(source.classes):
            raise ValueError(f"{images:,} images and {labels:,} labels up to {most} are not of one data set")
    except (RuntimeError, ValueError, AssertionError, EOFError) as error:
        raw = root / source.__name__ / "raw"
        raise UserError(
            f"The files in {raw} cannot be read ({error or type(error).__name__}). "
            "Delete that folder and run the same command again to download them."
        ) from error
    return data


def checksums(raw: Path) -> dict[str, str]:
    """Return the SHA-256 of each unpacked file in a folder, by its name."""
    sums = {}
    for path in sorted(raw.glob("*-ubyte")):
        with path.open("rb") as file:
            sums[path.name] = hashlib.file_digest(file, "sha256").hexdigest()
    return sums
