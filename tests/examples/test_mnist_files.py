"""A real download from a real server, whole, cut short and corrupted."""

import gzip
import http.server
import shutil
import threading
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest
import torch
from torchvision.datasets import MNIST
from torchvision.datasets.utils import calculate_md5

from tests.conftest import CONFIGS, write_idx, write_synthetic

NAMES = [f"{part}-{kind}-ubyte.gz" for part in ("train", "t10k") for kind in ("images-idx3", "labels-idx1")]


@pytest.fixture(scope="session")
def files(tmp_path_factory, mnist):
    """The four files as a server has them."""
    folder = tmp_path_factory.mktemp("server")
    raw = mnist.root / "MNIST" / "raw"
    if not mnist.real:
        raw = folder / "raw"
        write_synthetic(raw, 2_000, 500)
    for name in NAMES:
        at_hand = Path(__file__).parents[2] / "data" / "MNIST" / "raw" / name
        if mnist.real and at_hand.is_file():
            shutil.copy(at_hand, folder / name)
        else:
            (folder / name).write_bytes(gzip.compress((raw / name).with_suffix("").read_bytes(), mtime=0))
    return folder


@dataclass
class Server:
    """Serves a folder on 127.0.0.1, and notes which files were fetched."""

    folder: Path
    address: str
    served: list[str]


@pytest.fixture
def server(files, tmp_path, monkeypatch):
    """Serve a copy of the files, which a test may damage."""
    served: list[str] = []

    class Handler(http.server.SimpleHTTPRequestHandler):
        def log_request(self, *args):
            if self.command == "GET":
                served.append(Path(self.path).name)

        def log_message(self, *args):
            pass

    if any(calculate_md5(files / name) != md5 for name, md5 in MNIST.resources):
        # Files of our own making: tell torchvision their checksums.
        monkeypatch.setattr(MNIST, "resources", [(name, calculate_md5(files / name)) for name, _ in MNIST.resources])
    folder = shutil.copytree(files, tmp_path / "server")
    made = http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=folder))
    made.handle_error = lambda *args: None  # torchvision asks for each file twice and hangs up on the first answer
    threading.Thread(target=made.serve_forever, daemon=True).start()
    yield Server(folder, f"http://127.0.0.1:{made.server_address[1]}", served)
    made.shutdown()
    made.server_close()


def test_data(cli, server, root, *more):
    step = ("--trainer.limit_test_batches=1", "--data.val_size=100", *more)
    return cli(
        "test", "--config", CONFIGS / "mnist.yaml", f"--data.root={root}", f"--data.mirror={server.address}", *step
    )


test_data.__test__ = False  # a helper, not a test


def left(root):
    return sorted(path.name for path in root.rglob("*") if path.is_file() and path.name != ".lock")


def test_a_whole_download_is_verified_kept_and_not_repeated(cli, server, tmp_path):
    done = test_data(cli, server, tmp_path / "data")
    assert done.code == 0, done.err
    assert set(server.served) == set(NAMES)
    assert left(tmp_path / "data") == sorted([*NAMES, *(name.removesuffix(".gz") for name in NAMES)])
    server.served.clear()
    assert test_data(cli, server, tmp_path / "data").code == 0
    assert server.served == []


@pytest.mark.parametrize("damage", ["truncated", "corrupted", "missing"])
def test_a_bad_download_is_one_clear_error_and_the_next_one_recovers(cli, server, files, tmp_path, damage):
    name = "t10k-images-idx3-ubyte.gz"
    whole = (files / name).read_bytes()
    bad = {"truncated": whole[: len(whole) // 2], "corrupted": whole[:-1] + bytes([whole[-1] ^ 1])}
    if damage == "missing":
        (server.folder / name).unlink()
    else:
        (server.folder / name).write_bytes(bad[damage])
    done = test_data(cli, server, tmp_path / "data")
    assert done.code != 0
    (line,) = [line for line in done.err.splitlines() if line.startswith("error:")]
    assert name in line
    assert ("404" if damage == "missing" else "orrupted") in line
    assert "--data.mirror" in line
    assert "Traceback" not in done.err
    shutil.copy(files / name, server.folder)
    assert test_data(cli, server, tmp_path / "data").code == 0


def test_a_folder_serves_as_a_mirror(cli, server, files, tmp_path):
    done = test_data(cli, server, tmp_path / "data", f"--data.mirror={files}")
    assert done.code == 0, done.err
    assert server.served == []


@pytest.mark.parametrize("mirror", ["example.com/mnist", "localhost:8000", "no/such/folder"])
def test_a_mirror_without_a_scheme_is_one_line_and_nothing_is_made(cli, server, mirror, tmp_path):
    done = test_data(cli, server, tmp_path / "data", f"--data.mirror={mirror}")
    assert done.code == 1
    assert f"mirror={mirror} is neither a folder here nor an address" in done.err
    assert not (tmp_path / "data").exists()


def test_a_corrupted_file_on_disk_is_fetched_again(cli, server, files, tmp_path):
    raw = tmp_path / "data/MNIST/raw"
    raw.mkdir(parents=True)
    for name in NAMES:
        shutil.copy(files / name, raw)
    (raw / NAMES[0]).write_bytes(b"not what it was")
    assert test_data(cli, server, tmp_path / "data").code == 0
    assert set(server.served) == {NAMES[0]}


def test_damaged_unpacked_files_are_one_clear_error(cli, mnist, tmp_path):
    raw = tmp_path / "data/MNIST/raw"
    shutil.copytree(mnist.root / "MNIST/raw", raw)
    (raw / "t10k-images-idx3-ubyte").write_bytes(b"\0\0")
    done = cli("test", "--config", CONFIGS / "mnist.yaml", f"--data.root={tmp_path / 'data'}")
    assert done.code != 0
    assert "cannot be read" in done.err
    assert "Delete that folder" in done.err
    assert "Traceback" not in done.err


@pytest.mark.parametrize("labels", [range(12), [k % 47 for k in range(40)]], ids=["fewer", "of more classes"])
def test_labels_of_another_data_set_are_one_line(cli, tmp_path, labels):
    raw = tmp_path / "data/MNIST/raw"
    write_synthetic(raw, 40, 40)
    write_idx(raw / "t10k-labels-idx1-ubyte", torch.tensor(list(labels), dtype=torch.uint8))
    done = cli("test", "--config", CONFIGS / "mnist.yaml", f"--data.root={tmp_path / 'data'}")
    assert done.code == 1
    (line,) = [line for line in done.err.splitlines() if line.startswith("error:")]
    assert f"40 images and {len(labels)} labels up to {max(labels)} are not of one data set" in line
    assert "Traceback" not in done.err


def test_a_folder_that_cannot_be_made_is_one_line(cli, server, tmp_path):
    (tmp_path / "data").touch()
    done = test_data(cli, server, tmp_path / "data")
    (line,) = [line for line in done.err.splitlines() if line.startswith("error:")]
    assert done.code == 1
    assert f"Cannot get MNIST into {tmp_path / 'data/MNIST/raw'}: " in line
    assert "--data.root" in line
