"""Several processes train like one, and end together; torchrun restarts them, and joins two machines."""

import os
import subprocess

import pytest
import torch

from src.engine.errors import UserError
from src.engine.processes import end_process_group
from tests.conftest import CONFIGS, PROJECT
from tests.processes import IN_DOUBLE, XOR, assert_equal_runs, fail, finish, free_port, launch, processes, rows, start
from tests.stopping import run_differences
from tests.xor import XorDataModule


class Filtered(XorDataModule):
    def on_after_batch_transfer(self, batch, dataloader_idx):
        kept = batch[0].sum(dim=1) < 2
        return batch[0][kept], batch[1][kept]


@pytest.mark.parametrize("data", ["tests.xor.XorDataModule", f"{__name__}.Filtered"])
def test_two_processes_train_like_one(data, cli, tmp_path):
    short = (*XOR, f"--data={data}", *IN_DOUBLE, "--data.passes=20", "--trainer.max_epochs=2")
    assert cli("fit", *short, "--trainer.accelerator=cpu", "--trainer.default_root_dir=alone").code == 0
    together = (*processes(2), "--data.batch_size=2", "--trainer.default_root_dir=together")
    done = launch("fit", *short, *together, cwd=tmp_path)
    assert done.stdout.count("parameters, on") == done.stdout.count("2 x cpu") == 1
    (one,), (two,) = (list((tmp_path / name / "xor").iterdir()) for name in ("alone", "together"))
    assert rows(one)[-1]["step"] == 40
    assert_equal_runs(one, two, 1e-9)


def test_the_process_group_of_gloo_is_gone_before_the_process():
    torch.distributed.init_process_group("gloo", store=torch.distributed.HashStore(), rank=0, world_size=1)
    end_process_group()
    assert not torch.distributed.is_initialized()


class Unused(torch.nn.Linear):
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


MULTINODE = ("--config", CONFIGS / "trainer/multinode.yaml", "--trainer.accelerator=cpu")
SHARED = (*XOR, *IN_DOUBLE, "--data.batch_size=2", "--checkpoint.every_n_steps=100")
# Restarted workers would meet in the store of those that died, and look for them.
ENV = {"TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"}


@pytest.mark.slow
def test_a_killed_worker_comes_back_and_the_run_ends_as_if_undisturbed(tmp_path):
    once = tmp_path / "once"
    kill = fail(rank=1, step=777, kill="true", once=once)
    runs = []
    for name in ("disturbed", "undisturbed"):  # the second finds the file
        options = (*SHARED, *processes(2), *kill, f"--trainer.default_root_dir={name}")
        launch("fit", *options, cwd=tmp_path, torchrun=("--nproc-per-node=2", "--max-restarts=1"), **ENV)
        assert once.exists()
        runs += (tmp_path / name / "xor").iterdir()
    assert [run.parts[-3] for run in runs] == ["disturbed", "undisturbed"]
    assert run_differences(*runs) == []


@pytest.mark.slow
@pytest.mark.parametrize("launcher", ["torchrun", "Lightning's"])
def test_two_machines_make_one_folder_that_equals_that_of_one_process(launcher, tmp_path):
    launch("fit", *XOR, *IN_DOUBLE, "--trainer.accelerator=cpu", "--trainer.default_root_dir=one", cwd=tmp_path)
    host, port = "127.0.0.1", str(free_port())
    agent = ("--nnodes=2", "--nproc-per-node=1", "--rdzv-backend=c10d", f"--rdzv-endpoint={host}:{port}", "--rdzv-id=2")
    machines = []
    for rank in range(2):
        own = {"MASTER_ADDR": host, "MASTER_PORT": port, "NODE_RANK": str(rank)}
        how = {"torchrun": agent, **ENV} if launcher == "torchrun" else own
        machines.append(start("fit", *SHARED, *MULTINODE, "--trainer.devices=1", cwd=tmp_path, **how))
    done = [finish(machine, timeout_s=600) for machine in machines]  # torchrun may wait 300 s for the other to end
    assert [each.returncode for each in done] == [0, 0], done
    assert sum(each.stdout.count("parameters, on 2 x cpu") for each in done) == 1
    assert launcher == "torchrun" or done[1].stdout == done[1].stderr == ""
    (one,), (two,) = (list((tmp_path / name / "xor").iterdir()) for name in ("one", "runs"))
    assert rows(two)[-1]["step"] == 2_000
    assert_equal_runs(one, two, 1e-9)


@pytest.mark.slow
def test_the_slurm_script_starts_the_run_with_the_options_given_to_it(tmp_path):
    """With an srun that starts one process: what the script hands to it has to be right."""
    if not (PROJECT / ".venv/bin/python").exists():
        pytest.skip("needs the .venv that `make setup` makes")
    for name in ("configs", "src", ".venv"):
        (tmp_path / name).symlink_to(PROJECT / name)
    srun = tmp_path / "srun"
    srun.write_text('#!/bin/sh\nwhile [ "${1#--}" != "$1" ]; do shift; done\nexec "$@"\n')
    srun.chmod(0o755)
    here = ("--trainer.num_nodes=1", "--trainer.devices=1", "--trainer.accelerator=cpu", "--trainer.strategy=auto")
    short = ("--trainer.max_epochs=1", "--trainer.limit_train_batches=2")
    environment = {"PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}", "CONFIG": "configs/rows.yaml"}
    script = ["bash", "configs/trainer/slurm.sh", *here, *short]
    done = subprocess.run(script, cwd=tmp_path, env=os.environ | environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "1 epoch, 2 steps" in done.stdout


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["ddp_notebook", "ddp_spawn"])
def test_processes_of_a_notebook_test_the_best_and_resume(strategy, tmp_path):
    short = (*XOR, "--data.batch_size=2", "--data.passes=5", "--trainer.max_epochs=2", "--trainer.accelerator=cpu")
    two = ("--trainer.devices=2", f"--trainer.strategy={strategy}", "--test_after_fit=true", "--seed_everything=3")
    # A rate at which the second epoch is worse than the first.
    done = launch("fit", *short, *two, "--model.optimizer.lr=3", cwd=tmp_path)
    run = tmp_path / "runs/xor/version_0"
    found = rows(run)
    best = min(row["val/loss"] for row in found if "val/loss" in row)
    (tested,) = [row["test/loss"] for row in found if "test/loss" in row]
    assert tested == pytest.approx(best, rel=1e-4)  # the test has the rows of the validation
    assert "Traceback" not in done.stderr
    launch("fit", "--ckpt_path", run, "--trainer.max_epochs=3", cwd=tmp_path)
    assert [row["epoch"] for row in rows(run) if "train/loss" in row] == [1, 2, 3]
