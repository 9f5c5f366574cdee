"""MNIST's files: brought to the disk whole and verified, or not at all; and read."""

import hashlib
import shutil
import tempfile
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import url2pathname

from torchvision.datasets import MNIST

from src.engine.errors import UserError


def download(source: type[MNIST], root: Path, mirror: str | None = None) -> None:
    """Fetch what is not there.

    Args:
        source: The data set: MNIST, or one that keeps its data in the same files.
        root: Folder in torchvision's layout; the files go to `<root>/<name>/raw`.
        mirror: A folder with the files, or its address, in place of torchvision's own.

    Raises:
        UserError: If that fails; nothing half-written is left behind.
    """
    raw = root / source.__name__ / "raw"
    names = [name for name, _ in source.resources]
    if all((raw / name).with_suffix("").is_file() for name in names):
        return
    given = folder_of(mirror) if mirror else None
    if mirror and not given:
        source.mirrors = [mirror.rstrip("/") + "/"]
    try:
        raw.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"Cannot make {raw}: {error.strerror}. Set --data.root to a place for writing.") from error
    # In a folder of our own, from which only whole and verified files move on.
    with tempfile.TemporaryDirectory(dir=root, prefix=".download-") as place:
        work = Path(place, source.__name__, "raw")
        work.mkdir(parents=True)
        for name in names:
            beside = [folder / name for folder in (raw, given) if folder and (folder / name).is_file()]
            for file in reversed(beside):
                shutil.copy(file, work)
        try:
            source(place, download=True)
        except (RuntimeError, OSError, EOFError) as error:
            raise UserError(
                f"Cannot get {source.__name__}. {' '.join(str(error).split())} Check the connection, name another "
                f"source (--data.mirror URL), or put the files {', '.join(names)} into {raw}."
            ) from error
        for file in work.iterdir():
            file.replace(raw / file.name)


def folder_of(mirror: str) -> Path | None:
    """The folder that a mirror is; None of an address.

    Raises:
        UserError: If it is neither.
    """
    local = url2pathname(urlsplit(mirror).path) if mirror.startswith("file://") else mirror
    folder = Path(local).expanduser()
    if folder.is_dir():
        return folder
    if mirror.startswith(("https://", "http://")):
        return None
    raise UserError(
        f"mirror={mirror} is no folder here, and no address: that begins with https:// or http://. Set --data.mirror."
    )


def read(source: type[MNIST], root: Path, train: bool) -> MNIST:
    """Read what is there.

    Args:
        source: As for `download`.
        root: As for `download`.
        train: Whether to read the training images, not those of the test.

    Raises:
        UserError: If the files are no images and labels of MNIST's form.
    """
    try:
        return source(root, train=train)
    except (RuntimeError, ValueError, AssertionError, EOFError) as error:
        raw = root / source.__name__ / "raw"
        raise UserError(
            f"The files in {raw} cannot be read ({error or type(error).__name__}). "
            "Delete that folder and run the same command again to download them."
        ) from error


def checksums(raw: Path) -> dict[str, str]:
    """SHA-256 of each unpacked file in the folder, by its name."""
    sums = {}
    for path in sorted(raw.glob("*-ubyte")):
        with path.open("rb") as file:
            sums[path.name] = hashlib.file_digest(file, "sha256").hexdigest()
    return sums
