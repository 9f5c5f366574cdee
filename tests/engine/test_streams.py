"""Whoever reads what a command prints may leave before it ends."""

import errno
import json
import os

import pytest
from lightning.pytorch import Callback

from src.engine.streams import Outliving
from tests.conftest import SMALL
from tests.processes import start


def test_a_stream_without_a_reader_takes_everything():
    read, write = os.pipe()
    stream = Outliving(open(write, "wb", buffering=0), "utf-8", write_through=True)  # noqa: SIM115, PTH123  # closed below
    print("first", file=stream, flush=True)
    assert os.read(read, 100) == b"first\n"
    os.close(read)
    print("second", file=stream, flush=True)
    print("third", file=stream, flush=True)
    stream.close()


def test_a_full_disk_is_an_error_all_the_same(tmp_path):
    if not os.path.exists("/dev/full"):  # noqa: PTH110
        pytest.skip("there is no /dev/full")
    stream = Outliving(open("/dev/full", "wb", buffering=0), "utf-8", write_through=True)  # noqa: SIM115, PTH123
    with pytest.raises(OSError, match="space") as caught:
        print("first", file=stream, flush=True)
    assert caught.value.errno == errno.ENOSPC


class Chatty(Callback):
    """Prints at each step, as users do."""

    def on_train_batch_end(self, *args):
        print("step")


@pytest.mark.slow
def test_a_fit_goes_on_when_nobody_reads_what_it_says(tmp_path):
    chatty = f"--trainer.callbacks+={Chatty.__module__}.Chatty"
    process = start("fit", "--config", SMALL, chatty, "--data.passes=9", "--trainer.max_epochs=20", cwd=tmp_path)
    assert "parameters" in process.stdout.readline()
    process.stdout.close()
    assert process.wait(120) == 0, process.stderr.read()
    assert "Error" not in process.stderr.read()
    process.stderr.close()
    summary = json.loads((tmp_path / "runs/xor/version_0/summary.json").read_text())
    assert summary["state"] == "finished"
    assert "test/loss" in summary["metrics"]
