"""Files come from a mirror whole; one that is cut short, corrupted or missing is named."""

import functools
import gzip
import http.server
import threading

import pytest
from torchvision.datasets import MNIST
from torchvision.datasets.utils import calculate_md5

from src.data.mnist import MNISTDataModule
from src.engine.errors import UserError
from tests.conftest import write_synthetic

NAMES = [name for name, _ in MNIST.resources]


@pytest.fixture
def mirror(tmp_path, monkeypatch):
    """A folder with the four packed files, and the address of a server of it."""
    folder = tmp_path / "mirror"
    write_synthetic(folder, 100, 50)
    for name in NAMES:
        (folder / name).write_bytes(gzip.compress((folder / name).with_suffix("").read_bytes()))
    # Files of our own making: give torchvision their checksums.
    monkeypatch.setattr(MNIST, "resources", [(name, calculate_md5(folder / name)) for name in NAMES])
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=folder)
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield folder, f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def test_a_download_is_not_repeated(mirror, tmp_path):
    data, raw = MNISTDataModule(tmp_path / "data", mirror=mirror[1]), tmp_path / "data/MNIST/raw"
    data.prepare_data()
    (raw / NAMES[0]).unlink()
    data.prepare_data()
    assert not (raw / NAMES[0]).exists()
    (raw / NAMES[0]).with_suffix("").unlink()
    data.prepare_data()
    data.setup("test")


@pytest.mark.parametrize("damage", ["truncated", "corrupted", "missing"])
def test_a_bad_download_is_named_and_the_next_one_recovers(mirror, tmp_path, damage):
    file = mirror[0] / "t10k-images-idx3-ubyte.gz"
    whole = file.read_bytes()
    bad = {"truncated": whole[: len(whole) // 2], "corrupted": whole[:-1] + bytes([whole[-1] ^ 1])}
    file.unlink() if damage == "missing" else file.write_bytes(bad[damage])
    data = MNISTDataModule(tmp_path / "data", mirror=mirror[1])
    with pytest.raises(UserError, match=rf"Cannot get MNIST .*({file.name}|orrupted).*--data\.mirror"):
        data.prepare_data()
    file.write_bytes(whole)
    data.prepare_data()
    data.setup("test")


def test_a_folder_that_cannot_be_made_and_a_damaged_file_are_named(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"Cannot get MNIST from .*--data\.root"):
        MNISTDataModule(tmp_path / "file").prepare_data()
    write_synthetic(tmp_path / "data/MNIST/raw", 100, 50)
    (tmp_path / "data/MNIST/raw/t10k-images-idx3-ubyte").write_bytes(b"\0\0")
    with pytest.raises(UserError, match=r"Cannot get MNIST .* delete that folder"):
        MNISTDataModule(tmp_path / "data").setup("test")
