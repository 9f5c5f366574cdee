"""Fixtures for all tests: the command line in this process, and MNIST's files."""

import gzip
import os
import signal
import struct
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from tests import stopping, warm
from tests.warm import PROJECT

# Background processes of a shell ignore Ctrl-C, which some tests send.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
# Small nets gain nothing from a second thread.
os.environ.setdefault("OMP_NUM_THREADS", "1")
torch.set_num_threads(1)

CONFIGS = PROJECT / "configs"
SMALL = PROJECT / "tests" / "xor.yaml"


@dataclass
class Done:
    """Exit code, output and last metrics of a command."""

    code: int
    out: str
    err: str
    metrics: dict[str, float]


@pytest.fixture
def cli(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Callable[..., Done]:
    """Run `python -m src ...` in this process, in an empty folder."""
    monkeypatch.chdir(tmp_path)

    def run(*args: object) -> Done:
        capfd.readouterr()
        code, finished = stopping.call([str(arg) for arg in args])
        metrics = finished.trainer.callback_metrics if finished else {}
        return Done(code, *capfd.readouterr(), {name: float(value) for name, value in metrics.items()})

    return run


def run_process(*args: object, cwd: Path, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    """Run `python -m src ...` in a new process, without a terminal."""
    return warm.finish(warm.start(args, cwd, env or os.environ))


@dataclass
class Mnist:
    """MNIST's four files in a folder: the real ones if `data` has them, else a small synthetic set."""

    root: Path
    real: bool
    num_train: int
    num_test: int
    val_size: int

    @property
    def options(self) -> list[str]:
        return [f"--data.root={self.root}", f"--data.val_size={self.val_size}"]


def write_synthetic(raw: Path, num_train: int, num_test: int) -> None:
    """Write images that a net can learn: each digit is a bright bar at its own height, on noise."""
    raw.mkdir(parents=True)
    generator = torch.Generator().manual_seed(0)
    for part, number in (("train", num_train), ("t10k", num_test)):
        digits = torch.arange(number) % 10
        images = torch.randint(0, 60, (number, 28, 28), generator=generator)
        for index, digit in enumerate(digits.tolist()):
            images[index, 2 * digit + 3 : 2 * digit + 6, 4:24] = 255
        for kind, values in (("images", images), ("labels", digits)):
            header = struct.pack(f">BBBB{values.dim()}I", 0, 0, 8, values.dim(), *values.shape)
            content = header + values.to(torch.uint8).numpy().tobytes()
            (raw / f"{part}-{kind}-idx{values.dim()}-ubyte").write_bytes(content)


@pytest.fixture(scope="module")
def mnist(request: pytest.FixtureRequest, mnist_files: Mnist) -> Mnist:
    """Give MNIST's files to tests of the example, or of a copy of it."""
    if "mnist.yaml" in request.path.read_text() and not (CONFIGS / "mnist.yaml").is_file():
        pytest.skip("needs the example MNIST, which was removed")
    return mnist_files


@pytest.fixture(scope="session")
def mnist_files(tmp_path_factory: pytest.TempPathFactory) -> Mnist:
    root = tmp_path_factory.mktemp("data")
    raw, at_hand = root / "MNIST" / "raw", PROJECT / "data" / "MNIST" / "raw"
    found = {file.name.removesuffix(".gz"): file for file in at_hand.glob("*-ubyte*")}
    if len(found) == 4:
        raw.mkdir(parents=True)
        for name, file in found.items():
            (raw / name).write_bytes(gzip.decompress(file.read_bytes()) if file.suffix else file.read_bytes())
        return Mnist(root, True, 60_000, 10_000, 5_000)
    write_synthetic(raw, 2_000, 500)
    return Mnist(root, False, 2_000, 500, 200)


@pytest.fixture
def fit_sums(cli: Callable[..., Done], tmp_path: Path) -> Callable[..., Done]:
    """Fit the small experiment with options and fragments; the first run is runs/sums/version_0."""
    stopping.write(tmp_path, stopping.config())

    def run(*more: str) -> Done:
        fragments = [word for name in more if name.endswith(".yaml") for word in ("--config", CONFIGS / name)]
        done = cli("fit", "--config", "sums.yaml", *fragments, *(word for word in more if not word.endswith(".yaml")))
        assert done.code == 0, done.err
        return done

    return run
