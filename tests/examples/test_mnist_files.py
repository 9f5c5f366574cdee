"""A real download from a real server, whole, cut short and corrupted."""

import gzip
import http.server
import shutil
import threading
from functools import partial
from pathlib import Path

import pytest
from torchvision.datasets import MNIST
from torchvision.datasets.utils import calculate_md5

from src.data.mnist import MNISTDataModule
from src.engine.errors import UserError
from tests.conftest import CONFIGS, PROJECT, write_synthetic

NAMES = [name for name, _ in MNIST.resources]


@pytest.fixture(scope="module")
def files(tmp_path_factory, mnist):
    """The four files as a server has them."""
    folder = tmp_path_factory.mktemp("server")
    raw = mnist.root / "MNIST/raw"
    if not mnist.real:
        raw = folder / "raw"
        write_synthetic(raw, 2_000, 500)
    for name in NAMES:
        at_hand = PROJECT / "data/MNIST/raw" / name
        if mnist.real and at_hand.is_file():
            shutil.copy(at_hand, folder / name)
        else:
            (folder / name).write_bytes(gzip.compress((raw / name).with_suffix("").read_bytes(), mtime=0))
    return folder


@pytest.fixture
def server(files, tmp_path, monkeypatch):
    """Serve a copy of the files, which a test may damage: its folder, its address, and which files were fetched."""
    served: list[str] = []

    class Handler(http.server.SimpleHTTPRequestHandler):
        def log_request(self, *args):
            if self.command == "GET":
                served.append(Path(self.path).name)

        def log_message(self, *args):
            pass

    if any(calculate_md5(files / name) != md5 for name, md5 in MNIST.resources):
        # Files of our own making: give torchvision their checksums.
        monkeypatch.setattr(MNIST, "resources", [(name, calculate_md5(files / name)) for name in NAMES])
    folder = shutil.copytree(files, tmp_path / "server")
    made = http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=folder))
    made.handle_error = lambda *args: None  # torchvision asks for each file twice and hangs up on the first answer
    threading.Thread(target=made.serve_forever, daemon=True).start()
    yield folder, f"http://127.0.0.1:{made.server_address[1]}", served
    made.shutdown()
    made.server_close()


def test_a_download_is_verified_and_not_repeated(server, tmp_path):
    _, address, served = server
    data = MNISTDataModule(tmp_path / "data", mirror=address, val_size=100)
    data.prepare_data()
    assert sorted(set(served)) == sorted(NAMES)
    assert len(data.checksums()) == 4
    served.clear()
    data.prepare_data()
    assert served == []
    (tmp_path / "data/MNIST/raw" / NAMES[0]).write_bytes(b"not what it was")
    (tmp_path / "data/MNIST/raw" / NAMES[0]).with_suffix("").unlink()
    data.prepare_data()
    assert set(served) == {NAMES[0]}


@pytest.mark.parametrize("damage", ["truncated", "corrupted", "missing"])
def test_a_bad_download_names_the_file_and_the_next_one_recovers(server, files, tmp_path, damage):
    folder, address, _ = server
    name = "t10k-images-idx3-ubyte.gz"
    whole = (files / name).read_bytes()
    bad = {"truncated": whole[: len(whole) // 2], "corrupted": whole[:-1] + bytes([whole[-1] ^ 1])}
    if damage == "missing":
        (folder / name).unlink()
    else:
        (folder / name).write_bytes(bad[damage])
    data = MNISTDataModule(tmp_path / "data", mirror=address, val_size=100)
    with pytest.raises(
        UserError, match=rf"(?s)Cannot get MNIST .*{name}.*({'404' if damage == 'missing' else 'orrupted'})"
    ):
        data.prepare_data()
    shutil.copy(files / name, folder)
    data.prepare_data()
    data.setup("test")


def test_a_mistake_is_one_line_of_the_command(cli, tmp_path):
    done = cli("test", "--config", CONFIGS / "mnist.yaml", f"--data.root={tmp_path}", "--data.mirror=no/such/folder")
    assert done.code == 1
    (line,) = [line for line in done.err.splitlines() if line.startswith("error:")]
    assert "Cannot get MNIST" in line
    assert "--data.mirror" in line
    assert "Traceback" not in done.err


def test_a_folder_that_cannot_be_made_and_a_damaged_file_are_named(mnist, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"Cannot get MNIST into .*--data\.root"):
        MNISTDataModule(tmp_path / "file").prepare_data()
    raw = tmp_path / "data/MNIST/raw"
    shutil.copytree(mnist.root / "MNIST/raw", raw)
    (raw / "t10k-images-idx3-ubyte").write_bytes(b"\0\0")
    with pytest.raises(UserError, match=r"cannot be read .* Delete that folder"):
        MNISTDataModule(tmp_path / "data").setup("test")
