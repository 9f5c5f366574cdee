"""Sharded checkpoints: a folder with a part from each process, read by test and predict on one device."""

import shutil

import pytest
import torch
from torch.distributed.checkpoint.format_utils import torch_save_to_dcp

from src.module import LitModule
from tests.conftest import CONFIGS, SMALL

XOR = ("--config", SMALL, "--trainer.callbacks=null", "--data.passes=50")


@pytest.fixture
def sharded(cli, tmp_path):
    """A run's last checkpoint, and the same taken apart as FSDP writes it: weights in parts, the rest in meta.pt."""
    assert cli("fit", *XOR, "--trainer.accelerator=cpu").code == 0
    whole = tmp_path / "runs/xor/version_0/checkpoints/last.ckpt"
    checkpoint = torch.load(whole, weights_only=True)
    parts = {"model": checkpoint.pop("state_dict"), "optimizer_0": checkpoint.pop("optimizer_states")[0]}
    torch.save(parts, tmp_path / "parts.pt")
    folder = tmp_path / "sharded.ckpt"
    torch_save_to_dcp(tmp_path / "parts.pt", folder)
    torch.save(checkpoint, folder / "meta.pt")
    return whole, folder


def test_a_test_reads_a_sharded_checkpoint(cli, sharded):
    whole, folder = (cli("test", "--ckpt_path", path, "--trainer.accelerator=cpu") for path in sharded)
    assert folder.code == 0, folder.err
    assert whole.metrics == folder.metrics


@pytest.mark.slow
def test_predict_and_a_notebook_read_it_too(cli, sharded):
    assert cli("predict", "--ckpt_path", sharded[1], "--trainer.accelerator=cpu").code == 0
    whole, folder = (LitModule.load_from_checkpoint(path).state_dict() for path in sharded)
    assert all(torch.equal(whole[name], folder[name]) for name in whole)


def test_a_sharded_checkpoint_without_a_part_is_refused(cli, sharded):
    shutil.rmtree(sharded[1])
    sharded[1].mkdir()
    done = cli("test", "--ckpt_path", sharded[1])
    assert done.code != 0
    assert "folder without checkpoints" in done.err


@pytest.mark.slow
def test_on_a_cpu_fsdp_is_refused_in_one_line(cli):
    done = cli("fit", *XOR, "--config", CONFIGS / "trainer/fsdp.yaml", "--trainer.accelerator=cpu")
    assert done.code != 0
    assert "requires a GPU" in done.err
    assert "Traceback" not in done.err


@pytest.mark.slow
@pytest.mark.skipif(not torch.cuda.is_available(), reason="FSDP needs a CUDA device, there is none")
def test_fsdp_trains_and_its_checkpoint_is_tested_resumed_and_read(cli, tmp_path):
    devices = ("--trainer.accelerator=cuda", "--trainer.devices=1")
    done = cli("fit", *XOR, "--config", CONFIGS / "trainer/fsdp.yaml", *devices)
    assert done.code == 0, done.err
    last = tmp_path / "runs/xor/version_0/checkpoints/last.ckpt"
    assert last.is_dir()
    tested = cli("test", "--ckpt_path", last, "--trainer.accelerator=cpu")
    assert tested.metrics["test/acc"] == done.metrics["test/acc"]
    assert cli("fit", "--ckpt_path", last, "--trainer.max_epochs=9").code == 0
