"""MASTER_PORT in the environment: one line where it cannot be used, and never a mistake that nobody hears of."""

import os
import socket

import pytest
from torch.distributed import TCPStore

from tests.conftest import SMALL, run_process
from tests.processes import free_port, processes

SHORT = ("fit", "--config", SMALL, "--trainer.max_epochs=1", "--data.passes=2")
MISTAKE = ("--trainer.max_epoch=3", "error: unrecognized arguments: --trainer.max_epoch=3. Did you mean")


def run(tmp_path, port, *options):
    env = os.environ | {"MASTER_PORT": str(port), "MASTER_ADDR": "127.0.0.1", "OMP_NUM_THREADS": "1"}
    return run_process(*SHORT, *options, cwd=tmp_path, timeout_s=100, env=env)


@pytest.mark.slow
@pytest.mark.parametrize("port", ["abc", "", "70000"])
def test_what_is_no_port_is_one_line_and_hides_no_mistake(tmp_path, port):
    done = run(tmp_path, port, *processes(2))
    assert done.returncode == 1
    (line,) = [line for line in done.stderr.splitlines() if "Seed set" not in line]
    assert line.startswith(f"error: MASTER_PORT={port!r} in the environment is no port")
    assert run(tmp_path, port, *processes(2), MISTAKE[0]).stderr.startswith(MISTAKE[1])


@pytest.mark.slow
def test_one_process_needs_no_port(tmp_path):
    done = run(tmp_path, "abc", "--trainer.devices=1", "--trainer.accelerator=cpu")
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_a_port_that_another_program_has_is_one_line(tmp_path):
    with socket.socket() as server:
        server.bind(("", 0))
        server.listen()
        port = server.getsockname()[1]
        done = run(tmp_path, port, *processes(2))
    assert done.returncode == 1
    (line,) = [line for line in done.stderr.splitlines() if "Seed set" not in line]
    assert line.startswith(f"error: MASTER_PORT={port} in the environment cannot be used")


@pytest.mark.slow
@pytest.mark.parametrize("number", [1, 2])
def test_the_store_of_another_run_takes_no_error_for_told(tmp_path, number):
    port = free_port()
    store = TCPStore("127.0.0.1", port, is_master=True)
    for _ in range(2):
        done = run(tmp_path, port, *processes(number), MISTAKE[0])
        assert done.returncode == 2
        assert done.stderr.startswith(MISTAKE[1])
    done = run(tmp_path, port, *processes(2))
    assert done.returncode == 1
    assert f"MASTER_PORT={port} in the environment cannot be used" in done.stderr
    assert "Traceback" not in done.stderr
    del store


@pytest.mark.slow
def test_a_free_port_of_the_environment_is_taken(tmp_path):
    done = run(tmp_path, free_port(), *processes(2))
    assert done.returncode == 0, done.stderr
