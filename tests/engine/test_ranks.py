"""When a process ends the others leave: its error is the last thing on the screen."""

import pytest
import torch

from tests.processes import MNIST, XOR, fail, finish, launch, processes, start

pytestmark = pytest.mark.slow


def test_a_process_that_breaks_down_has_the_last_word(tmp_path):
    done = finish(start("fit", *XOR, *processes(3), *fail(rank=1, step=100), cwd=tmp_path), timeout_s=100)
    assert done.returncode != 0
    assert done.stderr.strip().splitlines()[-1].endswith("RuntimeError: rank 1 broke down")
    assert done.stderr.count("Traceback") == 1


def test_a_process_that_is_killed_is_told_of_by_the_others(tmp_path):
    done = finish(start("fit", *XOR, *processes(2), *fail(rank=1, step=100, kill="true"), cwd=tmp_path), timeout_s=100)
    assert done.returncode != 0
    assert "was ended by SIGKILL" in done.stderr.strip().splitlines()[-1]


def test_a_failed_download_ends_all_processes_with_the_one_error(tmp_path):
    mirror = ("--data.root=nowhere", "--data.mirror=http://127.0.0.1:9/")
    done = finish(start("fit", *MNIST, *mirror, *processes(2), cwd=tmp_path), timeout_s=100)
    assert done.returncode != 0
    assert done.stderr.strip().splitlines()[-1].startswith("error: Cannot get MNIST.")
    assert done.stderr.count("error:") == 1


def test_the_report_of_torchrun_ends_with_the_error_of_the_one_that_failed(tmp_path):
    options = (*XOR, *processes(2), *fail(rank=1, step=100))
    done = finish(start("fit", *options, cwd=tmp_path, torchrun=("--nproc-per-node=2",)), timeout_s=100)
    assert done.returncode != 0
    report = done.stderr[done.stderr.index("Root Cause") :]
    assert "RuntimeError: rank 1 broke down" in report
    assert "gloo/transport" not in done.stderr


class Unused(torch.nn.Linear):
    """A layer, and one that nobody calls."""

    def __init__(self) -> None:
        super().__init__(2, 1)
        self.idle = torch.nn.Linear(2, 2)


@pytest.mark.slow
def test_parameters_without_a_gradient_are_told_in_one_line_with_the_option(tmp_path):
    net = ("--model.net", f"{Unused.__module__}.Unused", "--trainer.max_epochs=1")
    done = finish(start("fit", *XOR, *processes(2), *net, cwd=tmp_path))
    assert done.returncode == 1
    assert done.stderr.count("ddp_find_unused_parameters_true") == 1
    assert "Traceback" not in done.stderr
    launch("fit", *XOR, *processes(2), *net, "--trainer.strategy=ddp_find_unused_parameters_true", cwd=tmp_path)
