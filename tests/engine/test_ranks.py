"""When a process ends the others end as well, and what they print names its error."""

import pytest
import torch

from tests.processes import MNIST, XOR, fail, finish, launch, processes, start

pytestmark = pytest.mark.slow


def test_a_process_that_breaks_down_ends_all_and_its_error_is_printed(tmp_path):
    done = finish(start("fit", *XOR, *processes(3), *fail(rank=1, step=100), cwd=tmp_path), timeout_s=100)
    assert done.returncode != 0
    assert "RuntimeError: rank 1 broke down" in done.stderr


def test_a_process_that_is_killed_is_named(tmp_path):
    done = finish(start("fit", *XOR, *processes(2), *fail(rank=1, step=100, kill="true"), cwd=tmp_path), timeout_s=100)
    assert done.returncode != 0
    assert done.stderr.strip().splitlines()[-1] == "local rank 1 was ended by SIGKILL (out of memory?)"


def test_a_failed_download_ends_all_processes(tmp_path):
    mirror = ("--data.root=nowhere", "--data.mirror=http://127.0.0.1:9/")
    done = finish(start("fit", *MNIST, *mirror, *processes(2), cwd=tmp_path), timeout_s=100)
    assert done.returncode != 0
    assert done.stderr.count("error: Cannot get MNIST") == 1


def test_the_report_of_torchrun_ends_with_the_error_of_the_one_that_failed(tmp_path):
    options = (*XOR, *processes(2), *fail(rank=1, step=100))
    done = finish(start("fit", *options, cwd=tmp_path, torchrun=("--nproc-per-node=2",)), timeout_s=100)
    assert done.returncode != 0
    assert "RuntimeError: rank 1 broke down" in done.stderr[done.stderr.index("Root Cause") :]


class Unused(torch.nn.Linear):
    """A layer, and one that nobody calls."""

    def __init__(self) -> None:
        super().__init__(2, 1)
        self.idle = torch.nn.Linear(2, 2)


def test_parameters_without_a_gradient_are_one_line_with_the_option(tmp_path):
    net = ("--model.net", f"{Unused.__module__}.Unused", "--trainer.max_epochs=1")
    done = finish(start("fit", *XOR, *processes(2), *net, cwd=tmp_path))
    assert done.returncode == 1
    assert "ddp_find_unused_parameters_true" in done.stderr
    assert "Traceback" not in done.stderr
    launch("fit", *XOR, *processes(2), *net, "--trainer.strategy=ddp_find_unused_parameters_true", cwd=tmp_path)
