"""Several processes train like one, and end together."""

import pytest
import torch

from src.engine.errors import UserError
from tests.processes import IN_DOUBLE, XOR, assert_equal_runs, fail, finish, launch, processes, rows, start
from tests.xor import XorDataModule


def test_two_processes_train_like_one(cli, tmp_path):
    short = (*XOR, *IN_DOUBLE, "--data.passes=20", "--trainer.max_epochs=2")
    assert cli("fit", *short, "--trainer.accelerator=cpu", "--trainer.default_root_dir=alone").code == 0
    together = (*processes(2), "--data.batch_size=2", "--trainer.default_root_dir=together")
    done = launch("fit", *short, *together, cwd=tmp_path)
    assert done.stdout.count("parameters, on") == done.stdout.count("2 x cpu") == 1
    (one,), (two,) = (list((tmp_path / name / "xor").iterdir()) for name in ("alone", "together"))
    assert rows(one)[-1]["step"] == 40
    assert_equal_runs(one, two, 1e-9)


class Unused(torch.nn.Linear):
    """A layer, and one that nobody calls."""

    def __init__(self) -> None:
        super().__init__(2, 1)
        self.idle = torch.nn.Linear(2, 2)


class NoFiles(XorDataModule):
    def prepare_data(self) -> None:
        raise UserError("Cannot get the files")


FAILURES = {
    "one breaks down": ([*processes(3), *fail(rank=1, step=20)], "RuntimeError: rank 1 broke down"),
    "one is killed": ([*processes(2), *fail(rank=1, step=20, kill="true")], "or it was killed (out of memory?)"),
    "a download fails": ([*processes(2), f"--data={__name__}.NoFiles"], "error: Cannot get the files"),
    "no gradient": ([*processes(2), f"--model.net={__name__}.Unused"], "ddp_find_unused_parameters_true"),
}


@pytest.mark.slow
@pytest.mark.parametrize(("options", "said"), FAILURES.values(), ids=FAILURES.keys())
def test_a_failure_of_one_ends_all_and_is_named(options, said, tmp_path):
    done = finish(start("fit", *XOR, *options, cwd=tmp_path), timeout_s=100)
    assert done.returncode != 0
    assert said in done.stderr
    if "error: " in said or "unused" in said:
        assert "Traceback" not in done.stderr
