"""MNIST's files: brought to the disk whole and verified, or not at all; and read."""

import errno
import hashlib
import shutil
import tempfile
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import url2pathname

from torchvision.datasets import MNIST

from src.engine.errors import UserError
from src.engine.paths import pasted


def download(source: type[MNIST], root: Path, mirror: str | None = None) -> None:
    """Fetch what is not there.

    Args:
        source: The data set: MNIST, or one that keeps its data in the same files.
        root: Folder in torchvision's layout; the files go to `<root>/<name>/raw`.
        mirror: A folder with the files, or its address, in place of torchvision's own.

    Raises:
        UserError: If that fails, or the folder cannot be written; nothing half-written is left behind.
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
        # In a folder of our own, from which only whole and verified files move on.
        with tempfile.TemporaryDirectory(dir=root, prefix=".download-") as place:
            work = Path(place, source.__name__, "raw")
            work.mkdir(parents=True)
            for name in names:
                beside = [folder / name for folder in (raw, given) if folder and (folder / name).is_file()]
                for file in reversed(beside):
                    shutil.copy(file, work)
            _fetch(source, place, f"put the files {', '.join(names)} into {raw}")
            for file in work.iterdir():
                file.replace(raw / file.name)
    except OSError as error:
        packed = all((raw / name).is_file() for name in names)
        there = f" --data.mirror {pasted(raw)} takes the packed files from here." if packed else ""
        raise UserError(
            f"Cannot write into {root}: {error.strerror or error}. Set --data.root to a place with room where you may "
            f"write.{there}"
        ) from error


def _fetch(source: type[MNIST], place: str, by_hand: str) -> None:
    """Let torchvision download, verify and unpack what is not in the folder `place`."""
    try:
        source(place, download=True)
    except (RuntimeError, OSError, EOFError) as error:
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise UserError(
            f"Cannot get {source.__name__}. {' '.join(str(error).split())} Check the connection, name another "
            f"source (--data.mirror URL), or {by_hand}."
        ) from error


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
        data = source(root, train=train)
        images, labels = len(data.data), len(data.targets)
        if images != labels:
            raise ValueError(f"{images:,} images and {labels:,} labels: one of these files is of another data set")
        if labels and int(data.targets.max()) >= len(source.classes):
            raise ValueError(f"a label {int(data.targets.max())} for {len(source.classes)} classes")
        return data
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
